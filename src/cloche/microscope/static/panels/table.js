// Rows of texts and numbers.
import { html, useState } from '../vendor/htm-preact.js';
import { visible, written } from '../format.js';

const MOST = 200;

export function Table({ columns, rows, forms, title }) {
  const [most, show] = useState(MOST);
  const cell = (value, i) => {
    const text = written(value, forms[i]);
    return html`<td key=${i} class=${typeof value === 'string' ? 'words' : ''}>${forms[i] === 'token' && text ? html`<code>${visible(text)}</code>` : text}</td>`;
  };
  const words = (i) => (rows.every((row) => typeof row[i] === 'string') ? 'words' : ''); // written to the left
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${title || 'table'}><table class="data">
    <thead><tr>${columns.map((name, i) => (i || name ? html`<th key=${i} scope="col" class=${words(i)}>${name}</th>` : html`<td key=${i}></td>`))}</tr></thead>
    <tbody>${rows.slice(0, most).map((row, r) => html`<tr key=${r}><th scope="row">${written(row[0], forms[0])}</th>${row.slice(1).map((value, i) => cell(value, i + 1))}</tr>`)}</tbody></table></div>
    ${rows.length > most && html`<button class="quiet" onClick=${() => show(rows.length)}>Show ${rows.length - most} more</button>`}`;
}
