// Health: measurements per layer and step.
import { html } from './vendor/htm-preact.js';
import { Chart } from './chart.js';
import { adoptedFrom, resumeCommand } from './commands.js';
import { Empty } from './controls.js';
import { number, percent, short, whole } from './format.js';
import { Painted } from './panels/heatmap.js';
import { Legend } from './panels/legend.js';
import { link } from './route.js';
import { scaleOf } from './scale.js';
import { useStore } from './store.js';

const layerRows = (count, first) => Array.from({ length: count }, (_, i) => {
  const name = first ? (i === 0 ? 'embed' : `layer ${i - 1}`) : `layer ${i}`;
  return { label: name, name, group: 0 };
});

const MAPS = [
  { key: 'resid_variance', title: 'Residual variance', log: true, format: number, first: true,
    note: 'Variance of the residual stream after each layer. It should rise gently from bottom to top and then level off; a row that keeps growing means that the run is about to diverge.' },
  { key: 'attention_entropy', title: 'Attention entropy', top: 1, format: (v) => percent(v, 0), heads: true,
    note: 'How widely each head attends: 100 % is uniform attention, 0 % a single token. Heads should diverge as they specialise; all dark at once is collapse.' },
  { key: 'activation_density', title: 'Activation density', format: (v) => percent(v, 1),
    note: 'The share of MLP units that are active per token: how sparse each layer is.' },
  { key: 'update_ratio', title: 'Update / weight', log: true, format: number, first: true,
    note: 'The norm of each step’s update over the norm of the weights.', usual: 'usual_update_ratio' },
  { key: 'dead_units', title: 'Dead units', format: (v) => percent(v, 1),
    note: 'The share of MLP units that have never been active so far: width that is computed and not used.' },
];
const LINES = [
  { key: 'logit_norm', title: 'Logit norm', note: 'Root mean square of the logits.' },
  { key: 'grad_norm', title: 'Gradient norm', note: 'Before clipping.' },
];

// One row per layer (or per head within its layer), the last layer on top.
function grid(records, map) {
  const width = Math.max(...records.map((record) => record[map.key].length));
  if (!map.heads) {
    const rows = layerRows(width, map.first);
    return { rows: rows.reverse(), values: rows.map((_, i) => records.map((r) => r[map.key][width - 1 - i] ?? null)) };
  }
  const rows = [];
  const values = [];
  for (let layer = width - 1; layer >= 0; layer -= 1) {
    const heads = Math.max(...records.map((r) => r[map.key][layer]?.length || 0));
    for (let head = 0; head < heads; head += 1) {
      rows.push({ label: head === 0 ? `layer ${layer}` : '', middle: heads / 2, name: `layer ${layer}, head ${head}`, group: layer });
      values.push(records.map((r) => r[map.key][layer]?.[head] ?? null));
    }
  }
  return { rows, values };
}

function Map_({ map, records, version, pinned, onPick, more }) {
  const { rows, values } = grid(records, map);
  const scale = scaleOf(values.flat(), map.log ? 'log' : 'linear', null, map.top);
  const above = map.usual && records[records.length - 1][map.usual];
  const usual = above ? ` Up to ${number(above)} is usual for this run’s optimiser; a row that stays above it learns too fast.` : '';
  const newest = values.map((row) => row[row.length - 1]);
  const summary = `Newest values from the top row down: ${newest.slice(0, 16).map(map.format).join(', ')}.`;
  const tall = map.heads ? Math.max(4, Math.min(10, Math.round(190 / rows.length))) : Math.max(8, Math.min(24, Math.round(150 / rows.length)));
  return html`<section class="panel">
    <header><h3>${map.title}</h3><${Legend} low=${map.format(scale.min)} high=${map.format(scale.max)} /></header>
    <p class="note">${map.note}${usual}${more && html` <a href=${link('findings', { of: 'activation-density' })}>${more}</a>`}</p>
    <${Painted} title=${map.title} rows=${rows} columns=${records.map((r) => r.step)} values=${values} scale=${scale} format=${map.format}
      version=${version} rowHeight=${tall} pinned=${pinned} onPick=${onPick} summary=${summary} />
  </section>`;
}

// The pinned step as a table, readable by screen readers too.
function AtStep({ record, onClear }) {
  const layers = record.resid_variance?.length || 0;
  const rows = Array.from({ length: layers }, (_, i) => layers - 1 - i);
  const mean = (list) => (list?.length ? list.reduce((a, b) => a + b, 0) / list.length : null);
  const cell = (list, i, format) => (list && i >= 0 && i < list.length ? format(list[i]) : '–');
  return html`<section class="panel at-step">
    <header><h3>Step ${whole(record.step)}</h3><button class="quiet" onClick=${onClear}>unpin</button></header>
    <div class="scroll" tabindex="0" role="region" aria-label=${`Step ${whole(record.step)}, per layer`}><table class="data"><caption>Logit norm ${number(record.logit_norm)}, gradient norm ${number(record.grad_norm)}.</caption>
      <thead><tr><th scope="col">after</th><th scope="col">residual variance</th><th scope="col">attention entropy (mean)</th><th scope="col">activation density</th>
        <th scope="col">update / weight</th><th scope="col">dead units</th></tr></thead>
      <tbody>${rows.map((i) => html`<tr key=${i}><th scope="row">${i === 0 ? 'embed' : `layer ${i - 1}`}</th><td>${cell(record.resid_variance, i, number)}</td>
        <td>${i > 0 && record.attention_entropy ? percent(mean(record.attention_entropy[i - 1]), 0) : '–'}</td><td>${cell(record.activation_density, i - 1, percent)}</td>
        <td>${cell(record.update_ratio, i, number)}</td><td>${cell(record.dead_units, i - 1, percent)}</td></tr>`)}</tbody></table></div>
  </section>`;
}

export function Health({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  const records = run.health;
  if (!records.length) {
    if (adoptedFrom(run)) {
      return html`<${Empty} title="Trained elsewhere" command=${resumeCommand(run)}>
        This run was adopted from ${adoptedFrom(run)}: it was not trained here, so it has no health records. To continue training, start a run from it:</>`;
    }
    return html`<${Empty} title="No measurement yet" command=${resumeCommand(run)}>
      During training, the run writes health measurements to log/health.jsonl every few steps; the first record appears here automatically. If the run is not training, resume it:</>`;
  }
  const steps = records.map((record) => record.step);
  const pinned = state.step === undefined ? null : steps.findLastIndex((step) => step <= Number(state.step));
  const pick = (i) => change({ step: i === pinned ? null : steps[i] });
  const dense = run.findings.some((finding) => finding.instrument === 'activation-density');
  const has = (key) => records.some((record) => record[key] !== undefined && record[key] !== null);
  return html`
    ${pinned !== null && pinned >= 0
      ? html`<${AtStep} record=${records[pinned]} onClear=${() => change({ step: null })} />`
      : html`<p class="lead">Each map has layers as rows and steps as columns. Point at a cell to read it; click to pin a step in all maps.</p>`}
    <div class="panels wide">
      ${MAPS.filter((map) => has(map.key)).map((map) => html`<${Map_} key=${map.key} map=${map} records=${records.filter((r) => r[map.key])}
        version=${run.version} pinned=${pinned} onPick=${pick} more=${map.key === 'activation_density' && dense && 'Compare with the residual stream and with cortex'} />`)}
      ${LINES.filter((line) => has(line.key)).map((line) => html`<${Chart} key=${line.key} title=${line.title} note=${line.note} unit="" version=${run.version} height=${150}
        xFormat=${short} series=${[{ label: line.title, colour: '--first', x: steps, y: records.map((r) => r[line.key] ?? null) }]}
        marks=${pinned !== null && pinned >= 0 ? [{ x: steps[pinned], text: 'pinned', alarm: true }] : []} />`)}
    </div>`;
}
