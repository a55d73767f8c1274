// The data of each run, kept current by one event stream. Views read it and are redrawn when it changes.
import { useEffect, useReducer, useState } from './vendor/htm-preact.js';
import { duration } from './format.js';

const token = document.querySelector('meta[name=cloche-token]').content;
const listeners = new Set();
const CLOCK_SECONDS = 10;
let waiting = false;
let source = null;

export const store = { main: null, runs: {}, connected: true, error: null };

// Many records may arrive at once; the page is redrawn once.
function changed() {
  if (waiting) return;
  waiting = true;
  setTimeout(() => { waiting = false; listeners.forEach((draw) => draw()); }, 30);
}

export function useStore() {
  const [, draw] = useReducer((n) => n + 1, 0);
  useEffect(() => { listeners.add(draw); return () => listeners.delete(draw); }, []);
  return store;
}

async function answer(response) {
  const body = await response.json().catch(() => ({ error: `The server answered ${response.status} without a reason.` }));
  if (!response.ok) throw new Error(body.error);
  return body;
}

export async function get(path, query = {}) {
  const words = String(new URLSearchParams(query));
  return answer(await fetch(`/api/${path}${words && '?'}${words}`).catch(() => { throw new Error(GONE); }));
}

// The answer to a request, {value} or {error}; empty while it is pending. Without a key there is no request.
export function useAnswer(key, ask) {
  const [got, set] = useState({});
  useEffect(() => {
    if (!key) return undefined;
    let wanted = true;
    const take = (answered) => { if (wanted) set({ key, ...answered }); };
    ask().then((value) => take({ value }), (error) => take({ error: error.message }));
    return () => { wanted = false; };
  }, [key]);
  return got.key === key ? got : {};
}

export function useGet(path) { return useAnswer(path, () => get(path)); }

export async function post(path, body) {
  const headers = { 'content-type': 'application/json', 'x-cloche-token': token };
  const sent = fetch(`/api/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  return answer(await sent.catch(() => { throw new Error(GONE); }));
}

const GONE = 'The microscope’s server is gone: start it again with “cloche open”.';

// The first chart needs the run and its metrics; the rest is fetched while it is drawn.
async function begin(name) {
  const query = name ? { run: name } : {};
  const [about, history] = await Promise.all([get('run', query), get('history', query)]);
  return {
    about, ...columnsOf(history), events: history.events, health: [], samples: [], findings: [], loading: true,
    damaged: { run: about.damaged, history: history.damaged }, cursors: history.cursors, version: 1,
    heard: history.age === null ? null : Date.now() - 1000 * history.age,
  };
}

// `means` has, for a thinned history, the mean of each noisy measure over the records up to each kept one.
export function columnsOf({ train, validation }) {
  return { train: train.columns, means: train.means, validation: validation.columns, total: train.total };
}

async function complete(run) {
  const query = { run: run.about.name };
  const part = async (name) => {
    try { return await get(name, query); } catch (error) { return { failed: true, damaged: [error.message] }; }
  };
  const [health, samples, findings] = await Promise.all(['health', 'samples', 'findings'].map(part));
  Object.assign(run, { health: health.records || [], measures: health.measures, samples: samples.records || [], findings: findings.findings || [], loading: false });
  Object.assign(run.damaged, { health: health.damaged, samples: samples.damaged, findings: findings.damaged });
  Object.assign(run.cursors, health.cursors, samples.cursors);
  run.version += 1;
}

// A sentence per file that could not be read.
export function damages(run) { return [...new Set(Object.values(run.damaged).flat())].slice(0, 8); }

async function bring(name) {
  try {
    const run = await begin(name);
    store.main = store.main || run.about.name;
    store.runs[run.about.name] = run;
    store.error = null;
    changed();
    await complete(run);
    follow();
  } catch (error) { store.error = error.message; }
  changed();
}

export async function open() {
  await bring('');
  setInterval(changed, 1000 * CLOCK_SECONDS); // silence makes no event
}

// A second run is read once and then followed by the same stream.
export async function openSecond(name) {
  if (name && !store.runs[name]) await bring(name);
}

const again = new Set();
async function reread(name) {
  if (again.has(name)) return;
  again.add(name);
  await bring(name);
  again.delete(name);
}

function follow() {
  if (source) source.close();
  const from = Object.fromEntries(Object.entries(store.runs).map(([name, run]) => [name, run.cursors]));
  source = new EventSource(`/api/stream?from=${encodeURIComponent(JSON.stringify(from))}`);
  source.onopen = () => { store.connected = true; changed(); };
  source.onerror = () => { store.connected = false; changed(); };
  const on = (name, act) => source.addEventListener(name, (event) => {
    const data = JSON.parse(event.data);
    if (event.lastEventId) remember(JSON.parse(event.lastEventId));
    if (store.runs[data.run]) { act(store.runs[data.run], data); store.runs[data.run].version += 1; changed(); }
  });
  on('records', (run, data) => { run.heard = Date.now(); takers[data.log](run, data.records); });
  on('checkpoints', (run, data) => { run.about.checkpoints = data.checkpoints; });
  on('dictionaries', (run, data) => { run.about.dictionaries = data.dictionaries; });
  on('findings', (run, data) => { run.findings = data.findings; run.damaged.findings = data.damaged; });
  on('trouble', (run, data) => { run.damaged.live = [...(run.damaged.live || []), data.message].slice(-4); });
  on('rewritten', (run, data) => reread(data.run));
  on('behind', (run, data) => reread(data.run));
}

// If the stream is reopened for a second run, it continues from here and not from the first reading.
function remember(cursors) {
  for (const [name, logs] of Object.entries(cursors)) if (store.runs[name]) store.runs[name].cursors = logs;
}

const append = (columns, record) => { for (const key of Object.keys(columns)) if (key !== 'index') columns[key].push(record[key] ?? null); };
const LONG = 20_000;

const takers = {
  metrics(run, records) {
    for (const record of records) {
      if ('loss' in record) {
        append(run.train, record);
        for (const [key, means] of Object.entries(run.means)) means.push(record[key] ?? null);
        run.train.index.push(run.total);
        run.total += 1;
      }
      if ('val_bpb' in record) append(run.validation, record);
    }
    if (run.train.step.length > LONG) reread(run.about.name); // which thins it
  },
  health(run, records) { run.health.push(...records); },
  samples(run, records) { run.samples.push(...records); },
  events(run, records) { run.events.push(...records); },
};

export const last = (list) => list[list.length - 1];

// The current step: a validation may come after the last training record.
export const stepOf = (run) => [last(run.train.step), last(run.validation.step)].filter((s) => s !== undefined).sort((a, b) => b - a)[0];

// How long a run may write nothing before it counts as inactive: a minute, or many times the usual interval.
function patience(run) {
  const { time } = run.train;
  return Math.max(60, time.length > 1 ? (20 * (last(time) - time[0])) / (time.length - 1) : 0);
}

// The run within a window of an axis: if its history was thinned, the records in the window are fetched.
export function useWindow(run, axis, window) {
  const thinned = run && window && run.train.step.length < run.total;
  const query = thinned && new URLSearchParams({ run: run.about.name, x: axis, from: window[0], to: window[1] });
  const { value } = useGet(thinned ? `history?${query}` : null);
  return value ? { ...run, ...columnsOf(value), version: `${run.version}/${query}` } : run;
}

// State of the run, from its last event and the time since its last record.
export function stateOf(run) {
  const kinds = run.events.map((event) => event.kind).filter((kind) => ['start', 'resume', 'stopped', 'finished', 'nonfinite'].includes(kind));
  const kind = last(kinds);
  if (kind === 'finished') return { word: 'finished', live: false };
  if (kind === 'nonfinite') return { word: 'stopped at a non-finite number', live: false };
  if (kind === 'stopped') return { word: 'stopped', live: false };
  if (run.about.info.adopted) return { word: 'adopted', live: false };
  if (run.heard === null) return { word: 'waiting for the first record', live: true };
  const silent = (Date.now() - run.heard) / 1000;
  return silent > patience(run) ? { word: `no record for ${duration(silent)}`, live: false } : { word: 'training', live: true };
}
