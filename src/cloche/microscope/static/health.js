// Health: measurements per layer and step. The server says which there are, and how each is drawn.
import { html } from './vendor/htm-preact.js';
import { Chart } from './chart.js';
import { LogMissing } from './controls.js';
import { FORMS, number, short, whole } from './format.js';
import { Painted } from './panels/heatmap.js';
import { Legend } from './panels/legend.js';
import { Table } from './panels/table.js';
import { link } from './route.js';
import { scaleOf } from './scale.js';
import { useStore } from './store.js';

const LINES = [
  { key: 'logit_norm', title: 'Logit norm', note: 'Root mean square of the logits.' },
  { key: 'grad_norm', title: 'Gradient norm', note: 'Before clipping.' },
  { key: 'noise_scale', title: 'Gradient noise scale', note: 'Rows in a batch at which signal and noise of the gradient are equal: below, more rows pay; far above, they do not.' },
];
// The optimiser's limits of a measure as a sentence; '' if it has none.
function usualRange(record, { key, form = 'number', high = null, usual }) {
  const [least, most] = record.limits?.[key] ?? [null, record[usual] ?? null];
  const ends = [['at least', least, 0], ['up to', most, high]].filter(([, end, possible]) => end !== null && end !== possible);
  return ends.length ? ` Usual for this run’s optimiser: ${ends.map(([word, end]) => `${word} ${FORMS[form](end)}`).join(', ')}.` : '';
}
const layerName = (measure, i) => (measure.embed && i === 0 ? 'embed' : `layer ${i - measure.embed}`);

// One row per layer (or per head within its layer), the last layer on top.
function grid(records, measure) {
  const newest = records[records.length - 1][measure.key];
  const layers = newest.map((given, layer) => [given].flat().map((_, head, heads) => {
    const name = layerName(measure, layer);
    return {
      name: Array.isArray(given) ? `${name}, head ${head}` : name, label: head === Math.floor(heads.length / 2) ? name : '', first: head === 0,
      values: records.map((record) => [record[measure.key][layer]].flat()[head] ?? null),
    };
  }));
  return layers.reverse().flat();
}

function Map_({ measure, records, version, pinned, onPick, more }) {
  const rows = grid(records, measure);
  const values = rows.map((row) => row.values);
  const format = FORMS[measure.form];
  const scale = scaleOf(values.flat(), measure.log ? 'log' : 'linear', null, measure.high);
  const usual = usualRange(records[records.length - 1], measure);
  const newest = values.map((row) => row[row.length - 1]);
  return html`<section class="panel">
    <header><h3>${measure.title}</h3><${Legend} scale=${scale} format=${format} /></header>
    <p class="note">${measure.note}${usual}${more && html` <a href=${link('findings', { of: 'activation-density' })}>${more}</a>`}</p>
    <${Painted} title=${measure.title} rows=${rows} columns=${records.map((r) => r.step)} values=${values} scale=${scale} format=${format}
      version=${version} rowHeight=${Math.max(4, Math.min(24, Math.round(170 / rows.length)))} pinned=${pinned} onPick=${onPick}
      summary=${`Newest values from the top row down: ${newest.slice(0, 16).map(format).join(', ')}.`} />
  </section>`;
}

// The pinned step as a table, readable by screen readers too; heads are averaged.
function AtStep({ record, measures, onClear }) {
  const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
  const value = (measure, layer) => mean([record[measure.key][layer + measure.embed] ?? []].flat());
  const count = Math.max(0, ...measures.map((measure) => record[measure.key].length - measure.embed));
  const rows = Array.from({ length: count + 1 }, (_, i) => count - 1 - i); // -1 is the embedding
  return html`<section class="panel at-step">
    <header><h3>Step ${whole(record.step)}</h3><button class="quiet" onClick=${onClear}>unpin</button></header>
    <p class="note">Logit norm ${number(record.logit_norm)}, gradient norm ${number(record.grad_norm)}.
      ${record.alarms?.length > 0 && ` Outside of the optimiser’s limits: ${record.alarms.join(', ')}.`}</p>
    <${Table} title=${`Step ${whole(record.step)}, per layer`} columns=${['after', ...measures.map((m) => m.title.toLowerCase())]} forms=${['number', ...measures.map((m) => m.form)]}
      rows=${rows.map((layer) => [layer < 0 ? 'embed' : `layer ${layer}`, ...measures.map((m) => value(m, layer))])} />
  </section>`;
}

export function Health({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  const records = run.health;
  if (!records.length) {
    return html`<${LogMissing} run=${run} title="No measurement yet" has="health records">
      During training, the run writes health measurements to log/health.jsonl every few steps; the first record appears here automatically. If the run is not training, resume it:</>`;
  }
  const steps = records.map((record) => record.step);
  const pinned = state.step === undefined ? -1 : steps.findLastIndex((step) => step <= Number(state.step));
  const pick = (i) => change({ step: i === pinned ? null : steps[i] });
  const dense = run.findings.some((finding) => finding.instrument === 'activation-density');
  const has = ({ key }) => records.some((record) => record[key] !== undefined && record[key] !== null);
  return html`
    ${pinned >= 0
      ? html`<${AtStep} record=${records[pinned]} measures=${run.measures.filter((m) => records[pinned][m.key])} onClear=${() => change({ step: null })} />`
      : html`<p class="lead">Each map has layers as rows and steps as columns. Point at a cell to read it; click to pin a step in all maps.</p>`}
    <div class="panels wide">
      ${run.measures.filter(has).map((measure) => html`<${Map_} key=${measure.key} measure=${measure} records=${records.filter((r) => r[measure.key])}
        version=${run.version} pinned=${pinned} onPick=${pick} more=${measure.key === 'activation_density' && dense && 'Compare with the residual stream and with cortex'} />`)}
      ${LINES.filter(has).map((line) => html`<${Chart} key=${line.key} title=${line.title} note=${line.note + usualRange(records[records.length - 1], line)} unit="" version=${run.version} height=${150}
        xFormat=${short} series=${[{ label: line.title, colour: '--first', x: steps, y: records.map((r) => r[line.key] ?? null) }]}
        marks=${pinned >= 0 ? [{ x: steps[pinned], text: 'pinned', alarm: true }] : []} />`)}
    </div>`;
}
