// A value per row and column: as a table of texts, or, without texts, as an image with a crosshair that the mouse or the arrow
// keys move, and a readout.
import { html, useEffect, useRef, useState } from '../vendor/htm-preact.js';
import { FORMS, visible } from '../format.js';
import { colour, inkOn, rgb, scaleOf, share } from '../scale.js';

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [0, -20], PageDown: [0, 20] };

// The cell that a key leads to; null for other keys.
function moved(event, from, rows, columns) {
  const move = MOVES[event.key];
  if (!move) return null;
  event.preventDefault();
  const clamp = (v, count) => Math.min(count - 1, Math.max(0, v));
  return { r: clamp(from.r + move[0], rows.length), c: clamp(from.c + move[1], columns.length) };
}

// One pixel per cell, which the page enlarges without smoothing; missing values are transparent.
function paint(canvas, values, scale) {
  canvas.height = Math.max(values.length, 1);
  canvas.width = Math.max(values[0]?.length || 0, 1);
  const context = canvas.getContext('2d');
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.flat().forEach((value, i) => {
    const t = share(value, scale);
    if (t !== null) pixels.data.set([...rgb(t), 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

const MOST_LETTERS = 48;

// At most `most` columns, evenly spaced, with the first and the last.
function evenly(columns, most) {
  const count = Math.min(columns.length, most);
  return Array.from({ length: count }, (_, i) => columns[Math.round((i * (columns.length - 1)) / Math.max(1, count - 1))]);
}

// rows: [{label, name, first}], `first` with a line above it; columns: steps or names; values[row][column]; onPick(column) pins a column.
export function Painted({ title, rows, columns, values, scale, version, format, rowHeight = 22, pinned = null, onPick, summary, xName = 'step' }) {
  const canvas = useRef(null);
  const [cursor, setCursor] = useState(null);
  const seen = cursor && cursor.r < rows.length && cursor.c < columns.length ? cursor : null;
  useEffect(() => paint(canvas.current, values, scale), [version, columns.length, rows.length, scale.min, scale.max, title]);

  const find = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const c = Math.floor(((event.clientX - box.left) / box.width) * columns.length);
    const r = Math.floor(((event.clientY - box.top) / box.height) * rows.length);
    return c >= 0 && c < columns.length && r >= 0 && r < rows.length ? { r, c } : null;
  };
  const onKey = (event) => {
    if (event.key === 'Escape') setCursor(null);
    if (event.key === 'Enter' && seen && onPick) onPick(seen.c);
    const to = moved(event, seen || { r: 0, c: columns.length - 1 }, rows, columns);
    if (to) setCursor(to);
  };
  const column = (c) => ({ left: `${(100 * c) / columns.length}%`, width: `${100 / columns.length}%` });
  const named = columns.map((name) => name.toLocaleString('en-US').slice(0, 18));
  const wide = Math.max(1, ...named.map((name) => name.length));
  const fit = named.length * (wide + 2) <= MOST_LETTERS; // each column has its name below it
  const words = seen ? `${rows[seen.r].name} at ${xName} ${columns[seen.c].toLocaleString('en-US')}: ${format(values[seen.r][seen.c])}` : '';
  const height = { height: `${rows.length * rowHeight}px` };
  return html`<div class="heatmap">
    <output class="readout" aria-live="polite">${words}</output>
    <div class="map"><div class="rows" style=${height}>${rows.map((row, r) => html`<span key=${r}>${row.label}</span>`)}</div>
      <div class="cells-image"><canvas ref=${canvas} tabindex="0" role="img" aria-label=${`${title}. ${summary} Arrow keys read single cells.`} style=${height}
          onMouseMove=${(event) => setCursor(find(event))} onMouseLeave=${() => setCursor(null)} onKeyDown=${onKey}
          onClick=${(event) => { const cell = find(event); if (cell && onPick) onPick(cell.c); }}></canvas>
        ${rows.map((row, r) => row.first && r > 0 && html`<i class="between" key=${r} style=${{ top: `${(100 * r) / rows.length}%` }}></i>`)}
        ${pinned !== null && pinned >= 0 && html`<i class="pinned" style=${column(pinned)}></i>`}
        ${seen && html`<i style=${column(seen.c)}></i><i class="seen" style=${{ ...column(seen.c), top: `${(100 * seen.r) / rows.length}%`, height: `${100 / rows.length}%` }}></i>`}</div>
      <p class=${fit ? 'span each' : 'span'}>${(fit ? named : evenly(named, Math.max(2, Math.floor(40 / (wide + 2))))).map((name, i) => html`<span key=${i}>${name}</span>`)}</p></div>
  </div>`;
}

// A table of texts; the arrow keys move between cells. `head` is a row above, `at` the marked cell; onAt(cell) is called on hover
// (null on leaving), onPick(cell) on a click; keyOf(row, column) is the cell's data-cell attribute.
export function Cells({ title, rows, columns, values, scale, texts, tips, head, at, onAt, onPick, keyOf = (r, c) => `${r}.${c}` }) {
  const body = useRef(null);
  const [own, setOwn] = useState({ r: 0, c: 0 });
  const here = at || own;
  const pick = (cell) => { setOwn(cell); onPick?.(cell); };
  const onKey = (event) => {
    const to = moved(event, here, rows, columns);
    if (!to) return;
    pick(to);
    body.current.querySelector(`[data-cell="${keyOf(to.r, to.c)}"]`)?.focus();
  };
  const cell = (r, c) => {
    const [t, marked] = [share(values[r][c], scale), here.r === r && here.c === c];
    return html`<td key=${c} tabindex=${marked ? 0 : -1} data-cell=${keyOf(r, c)} class=${at && marked ? 'here' : ''} style=${t === null ? {} : { backgroundColor: colour(t), color: inkOn(t) }}
      title=${tips[r]?.[c]} onMouseEnter=${() => onAt?.({ r, c })} onFocus=${() => onAt?.({ r, c })} onClick=${() => pick({ r, c })}>${texts[r][c]}</td>`;
  };
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${title} onMouseLeave=${() => onAt?.(null)}><table class="cells" onKeyDown=${onKey}>
    ${head && html`<thead><tr><th scope="row">${head.name}</th>${head.texts.map((text, c) => html`<th scope="col" key=${c} class="next">${text}</th>`)}</tr></thead>`}
    <tbody ref=${body}>${rows.map((name, r) => html`<tr key=${r}><th scope="row">${name}</th>${columns.map((_, c) => cell(r, c))}</tr>`)}</tbody>
    <tfoot><tr><td></td>${columns.map((name, c) => html`<th scope="col" key=${c}>${visible(name)}</th>`)}</tr></tfoot></table></div>`;
}

// The panel.
export function Heatmap({ title, rows, columns, values, texts, tips, form, scale: kind, low, high }) {
  const scale = scaleOf(values.flat(), kind, low, high);
  const show = FORMS[form];
  const shared = { title, columns, values, scale };
  if (texts.length) {
    return html`<${Cells} ...${shared} rows=${rows} texts=${texts.map((row) => row.map(visible))} tips=${tips.length ? tips : values.map((row) => row.map(show))} />`;
  }
  return html`<${Painted} ...${shared} rows=${rows.map((name) => ({ label: name, name }))} format=${show} xName=""
    rowHeight=${Math.max(4, Math.min(22, Math.round(240 / rows.length)))} summary=${`${rows.length} rows and ${columns.length} columns.`} />`;
}
