// A finding of any instrument: its figures with their null, and its panels, each drawn by the module of its kind.
import { html } from '../vendor/htm-preact.js';
import { FORMS, number } from '../format.js';
import { scaleOf } from '../scale.js';
import { Bars } from './bars.js';
import { Figures } from './figures.js';
import { Graph } from './graph.js';
import { Heatmap } from './heatmap.js';
import { Legend } from './legend.js';
import { Lines } from './lines.js';
import { Scatter } from './scatter.js';
import { Key } from './series.js';
import { Table } from './table.js';
import { Text } from './text.js';
import { Tokens } from './tokens.js';

const KINDS = { Table, Heatmap, Lines, Bars, Scatter, Tokens, Graph, Text };

export function Panel({ panel }) {
  const Kind = KINDS[panel.kind];
  const coloured = panel.kind === 'Heatmap' || (panel.kind === 'Scatter' && panel.values.length > 0);
  const head = panel.title || panel.series?.length > 1 || coloured;
  return html`<figure class=${`drawn ${panel.kind.toLowerCase()}-panel`}>
    ${head && html`<figcaption>${panel.title && html`<h3>${panel.title}</h3>`}${coloured ? html`<${Legend} scale=${scaleOf(panel.values.flat(), panel.scale, panel.low, panel.high)} format=${FORMS[panel.form || 'number']} />` : html`<${Key} series=${panel.series} />`}</figcaption>`}
    <${Kind} ...${panel} />${panel.note && html`<p class="note">${panel.note}</p>`}</figure>`;
}

// Each figure with its null.
const named = ({ figures, null: unless }) => Object.entries(figures).map(([name, value]) => [
  name.replace(/_/g, ' '), html`${number(value)} ${unless && name in unless && html`<small>null ${number(unless[name])}</small>`}`,
]);

export function Found({ found }) {
  return html`<div class="finding">${Object.keys(found.figures || {}).length > 0 && html`<${Figures} pairs=${named(found)} />`}
    ${(found.notes || []).map((note) => html`<p class="note" key=${note}>${note}</p>`)}
    <div class="drawings">${found.panels.map((panel, i) => html`<${Panel} key=${i} panel=${panel} />`)}</div></div>`;
}
