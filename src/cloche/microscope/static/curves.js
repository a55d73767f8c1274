// Curves of the run, optionally compared with another.
import { html, useEffect } from './vendor/htm-preact.js';
import { Chart } from './chart.js';
import { Choice, LogMissing, Select } from './controls.js';
import { duration, fixed, number, percent, short, whole } from './format.js';
import { Figures } from './panels/figures.js';
import { Table } from './panels/table.js';
import { last, openSecond, stateOf, stepOf, useStore, useWindow } from './store.js';

const AXES = {
  step: ['step', whole, short], tokens: ['tokens', short, short], flops: ['FLOPs', short, short], time: ['time', duration, duration],
};
const PANELS = [
  { key: 'loss', title: 'Training loss', unit: 'nats per token', noisy: true, format: (v) => fixed(v, 3), tick: number },
  { key: 'val_bpb', title: 'Validation', unit: 'bits per byte', format: (v) => fixed(v, 3), tick: number, from: 'validation', points: true },
  { key: 'grad_norm', title: 'Gradient norm', unit: '', noisy: true, format: number, tick: number },
  { key: 'lr', title: 'Learning rate', unit: '', format: number, tick: number },
  { key: 'tokens_per_second', title: 'Speed', unit: 'tokens per second', noisy: true, format: whole, tick: short },
  { key: 'mfu', title: 'Model FLOPs utilisation', unit: 'of the fastest matrix product', noisy: true, format: percent, tick: (v) => `${number(100 * v)} %` },
];
const TABLE_ROWS = 40;
const SECONDS = [1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18000, 36000, 86400];
const ALARMS = ['spike', 'warning', 'nonfinite'];

// Exponential moving average with bias correction (Kingma & Ba, 2015, section 3). In a thinned history each kept record
// represents all records since the previous one: their mean is weighted by their number.
export function smooth(values, weight, index, means) {
  if (!weight) return values;
  let mean = 0;
  let mass = 0;
  return values.map((value, i) => {
    const taken = means ? means[i] : value;
    if (taken === null) return null;
    const kept = weight ** (index && i > 0 ? index[i] - index[i - 1] : 1);
    mean = kept * mean + (1 - kept) * taken;
    mass = kept * mass + (1 - kept);
    return mean / mass;
  });
}

function lines(run, name, panel, axis, weight, second) {
  const from = run[panel.from || 'train'];
  const colour = second ? '--second' : '--first';
  const line = { label: name, colour, x: from[axis], dash: second };
  if (!weight || !panel.noisy) return [{ ...line, y: from[panel.key], points: panel.points && from[axis].length < 400 }];
  const smoothed = smooth(from[panel.key], weight, from.index, run.means[panel.key]);
  return [{ ...line, y: from[panel.key], faint: true, silent: true, dash: false }, { ...line, y: smoothed }];
}

// Events have a step and a time; on the other axes they are placed at the nearest earlier record.
function marksOf(run, axis) {
  return run.events.filter((event) => event.kind === 'checkpoint' || ALARMS.includes(event.kind)).map((event) => {
    let x = event[axis];
    if (x === undefined) {
      const i = run.train.step.findLastIndex((step) => step <= event.step);
      x = run.train[axis][Math.max(i, 0)];
    }
    return { x, alarm: ALARMS.includes(event.kind), text: `${event.kind}${event.message ? ': ' + event.message : ''}` };
  });
}

// All panels share one x axis, so that they can be compared vertically.
function extent(run, second, axis) {
  const all = [run, second].filter(Boolean).flatMap((r) => [r.train[axis][0], last(r.train[axis]), r.validation[axis][0], last(r.validation[axis])]);
  const known = all.filter((x) => x !== undefined && x !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return low < high ? [low, high] : [low - 1, high + 1];
}

function Now({ run }) {
  const { train, validation } = run;
  const state = stateOf(run);
  const pairs = [
    ['step', whole(stepOf(run))], ['loss', fixed(last(train.loss), 3)],
    ['validation', validation.val_bpb.length ? html`${fixed(last(validation.val_bpb), 3)} <small>bits/byte</small>` : '–'],
    ['tokens seen', short(last(train.tokens))], ['speed', html`${short(last(train.tokens_per_second))} <small>tokens/s</small>`],
    state.live && last(train.eta) ? ['time left', duration(last(train.eta))] : ['trained for', duration(last(train.time))],
  ];
  return html`<${Figures} pairs=${pairs} />`;
}

function Events({ run }) {
  if (!run.events.length) return null;
  return html`<section class="events" aria-label="What happened">
    <h3>What happened</h3>
    <ol reversed>${[...run.events].reverse().slice(0, 60).map((event, i) => html`<li key=${run.events.length - i} class=${ALARMS.includes(event.kind) ? 'alarm' : ''}>
      <span class="num">${whole(event.step)}</span> <b>${event.kind}</b> <span>${event.message || ''}</span> <small>${event.time === undefined ? '' : duration(event.time)}</small>
    </li>`)}</ol>
  </section>`;
}

function AsTable({ run }) {
  const { train, validation } = run;
  const n = train.step.length;
  const total = run.total;
  const count = Math.min(n, TABLE_ROWS);
  const picked = Array.from({ length: count }, (_, i) => (count > 1 ? Math.round((i * (n - 1)) / (count - 1)) : 0));
  // A validation is shown once, in the first row at or after its step.
  const validated = (row) => {
    const at = validation.step.findLastIndex((s) => s <= train.step[picked[row]]);
    return at < 0 || (row > 0 && validation.step[at] <= train.step[picked[row - 1]]) ? null : validation.val_bpb[at];
  };
  const columns = [
    ['step', 'count', train.step], ['time', 'duration', train.time], ['tokens', 'short', train.tokens], ['loss', 'thousandths', train.loss], ['bits/byte', 'thousandths'],
    ['gradient norm', 'number', train.grad_norm], ['learning rate', 'number', train.lr], ['tokens/s', 'count', train.tokens_per_second], ['MFU', 'percent', train.mfu],
  ];
  const said = total > count ? `${count} of ${whole(total)} records, evenly spaced; the last is the newest.` : `All ${total} records.`;
  return html`<p class="note">${said}</p><${Table} title="Curves as a table" columns=${columns.map(([name]) => name)} forms=${columns.map(([, form]) => form)}
    rows=${picked.map((i, row) => columns.map(([, , values]) => (values ? values[i] : validated(row))))} />`;
}

export function Curves({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  const beside = run.about.runs.filter((name) => name !== store.main);
  const compare = beside.includes(state.compare) ? state.compare : '';
  useEffect(() => { openSecond(compare); }, [compare]);
  const axis = AXES[state.x] ? state.x : 'step';
  const weight = Math.min(0.99, Math.max(0, Number(state.smooth) || 0));
  const [xName, , xFormat] = AXES[axis];
  const window = state.from !== undefined && Number(state.from) < Number(state.to) ? [Number(state.from), Number(state.to)] : null;
  const near = useWindow(run, axis, window);
  const other = useWindow(store.runs[compare], axis, window);
  if (!run.train.step.length && !run.validation.step.length) {
    return html`<${LogMissing} run=${run} title="No record yet" has="training log and no curves">
      The first line of log/metrics.jsonl appears here automatically as soon as the run writes it. If the run is not training, start it:</>`;
  }
  const second = store.runs[compare];
  const version = `${near.version}/${other ? other.version : ''}/${axis}/${weight}`;
  const marks = marksOf(run, axis);
  const onWindow = (ends) => change(ends ? { from: Number(ends[0].toPrecision(6)), to: Number(ends[1].toPrecision(6)) } : { from: null, to: null });
  return html`
    <${Now} run=${run} />
    <div class="toolbar">
      <${Choice} name="x" label="x axis" value=${axis} options=${[['step', 'steps'], ['tokens', 'tokens'], ['flops', 'FLOPs'], ['time', 'time']]}
        onChange=${(x) => change({ x: x === 'step' ? null : x, from: null, to: null })} />
      <label class="slider"><span>smoothing</span><input type="range" min="0" max="0.98" step="0.02" value=${weight} aria-label="smoothing"
        onInput=${(event) => change({ smooth: Number(event.target.value) || null }, true)} /><span class="num">${weight.toFixed(2)}</span></label>
      ${beside.length > 0 && html`<${Select} label="compare with" value=${compare} options=${[['', 'no other run'], ...beside.map((name) => [name, name])]}
        onChange=${(name) => change({ compare: name })} />`}
      <${Choice} name="as" label="show as" value=${state.as === 'table' ? 'table' : 'curves'} options=${[['curves', 'curves'], ['table', 'table']]}
        onChange=${(as) => change({ as: as === 'table' ? as : null })} />
    </div>
    ${window && html`<p class="note">Only from ${xFormat(window[0])} to ${xFormat(window[1])}. <button class="quiet" onClick=${() => onWindow(null)}>show all</button></p>`}
    ${second && html`<p class="key"><span class="first">${store.main}</span><span class="second">${compare}</span></p>`}
    ${state.as === 'table' ? html`<${AsTable} run=${near} />` : html`<div class="panels">
      ${PANELS.map((panel) => html`<${Chart} key=${panel.key} title=${panel.title} unit=${panel.unit} xName=${xName} xFormat=${xFormat}
        yFormat=${panel.tick} showFormat=${panel.format} marks=${marks} version=${version} range=${extent(run, second, axis)} window=${window} onWindow=${onWindow} xIncrements=${axis === 'time' ? SECONDS : undefined} smooth=${weight} height=${panel.key === 'loss' || panel.key === 'val_bpb' ? 240 : 170}
        series=${[...lines(near, store.main, panel, axis, weight, false), ...(other ? lines(other, compare, panel, axis, weight, true) : [])]} />`)}
    </div>`}
    <${Events} run=${run} />`;
}
