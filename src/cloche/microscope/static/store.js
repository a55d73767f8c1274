// What is known of each run, kept current by one event stream. Views read it and are drawn again when it changes.
import { useEffect, useReducer, useState } from './vendor/htm-preact.js';
import { duration } from './format.js';

const token = document.querySelector('meta[name=cloche-token]').content;
const listeners = new Set();
const CLOCK_SECONDS = 10;
let waiting = false;
let source = null;

export const store = { main: null, runs: {}, connected: false, error: null, touched: 0 };

// Many records may arrive at once; the page is drawn once.
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
  const url = `/api/${path}?${new URLSearchParams(query)}`;
  return answer(await fetch(url).catch(() => { throw new Error(GONE); }));
}

// What the server answers at a path, {value} or {error}; nothing until then, nor while another path is asked. null asks nothing.
export function useGet(path) {
  const [got, set] = useState({});
  useEffect(() => {
    if (!path) return undefined;
    let wanted = true;
    const take = (answered) => { if (wanted) set({ path, ...answered }); };
    get(path).then((value) => take({ value }), (error) => take({ error: error.message }));
    return () => { wanted = false; };
  }, [path]);
  return got.path === path ? got : {};
}

export async function post(path, body) {
  const headers = { 'content-type': 'application/json', 'x-cloche-token': token };
  const sent = fetch(`/api/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  return answer(await sent.catch(() => { throw new Error(GONE); }));
}

const GONE = 'The microscope’s server is gone: start it again with “cloche open”.';

async function read(name) {
  const query = { run: name };
  const parts = ['run', 'history', 'health', 'samples', 'findings'].map((part) => get(part, query));
  const [about, history, health, samples, findings] = await Promise.all(parts);
  return {
    about, train: history.train, validation: history.validation, events: history.events,
    health: health.records, samples: samples.records, findings: findings.findings, damaged: findings.damaged,
    cursors: { ...history.cursors, ...health.cursors, ...samples.cursors }, version: 1, heard: history.age === null ? null : Date.now() - 1000 * history.age,
  };
}

export async function open() {
  try {
    const about = await get('run');
    store.main = about.name;
    store.runs[about.name] = await read(about.name);
    document.title = `${about.name} · cloche`;
    follow();
    setInterval(changed, 1000 * CLOCK_SECONDS); // silence makes no event
  } catch (error) { store.error = error.message; }
  changed();
}

// A second run is read once and then followed by the same stream.
export async function openSecond(name) {
  if (!name || store.runs[name]) return;
  try {
    store.runs[name] = await read(name);
    follow();
  } catch (error) { store.error = error.message; }
  changed();
}

async function reread(name) {
  try {
    store.runs[name] = await read(name);
    follow();
  } catch (error) { store.error = error.message; }
  changed();
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
  on('findings', (run, data) => { run.findings = data.findings; run.damaged = data.damaged; });
  source.addEventListener('trouble', (event) => { store.error = JSON.parse(event.data).message; changed(); });
  on('rewritten', (run, data) => reread(data.run));
}

// Should this stream be opened anew for a second run, it goes on from here and not from the first reading.
function remember(cursors) {
  for (const [name, logs] of Object.entries(cursors)) if (store.runs[name]) store.runs[name].cursors = logs;
}

const append = (columns, record) => { for (const key of Object.keys(columns)) columns[key].push(record[key] ?? null); };

const takers = {
  metrics(run, records) {
    for (const record of records) {
      if ('loss' in record) append(run.train, record);
      if ('val_bpb' in record) append(run.validation, record);
    }
  },
  health(run, records) { run.health.push(...records); },
  samples(run, records) { run.samples.push(...records); },
  events(run, records) { run.events.push(...records); },
};

export const last = (list) => list[list.length - 1];

// How far the run is: a validation may come after the last record of training.
export const stepOf = (run) => [last(run.train.step), last(run.validation.step)].filter((s) => s !== undefined).sort((a, b) => b - a)[0];

// How long a run may say nothing before it is called silent: a minute, or many times what it usually takes.
function patience(run) {
  const { time } = run.train;
  return Math.max(60, time.length > 1 ? (20 * (last(time) - time[0])) / (time.length - 1) : 0);
}

// What the run is doing, from its last event and from whether anything arrived lately.
export function stateOf(run) {
  const kinds = run.events.map((event) => event.kind).filter((kind) => ['start', 'resume', 'stopped', 'finished', 'nonfinite'].includes(kind));
  const kind = last(kinds);
  if (kind === 'finished') return { word: 'finished', live: false };
  if (kind === 'nonfinite') return { word: 'stopped at a non-finite number', live: false };
  if (kind === 'stopped') return { word: 'stopped', live: false };
  if (run.heard === null) return { word: 'waiting for the first record', live: true };
  const silent = (Date.now() - run.heard) / 1000;
  return silent > patience(run) ? { word: `silent for ${duration(silent)}`, live: false } : { word: 'training', live: true };
}
