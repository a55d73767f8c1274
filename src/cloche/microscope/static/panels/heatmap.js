// A value per row and column: as a table of texts, or, without texts, painted on a canvas with a crosshair that the mouse or the
// arrow keys move, and a readout.
import { html, useEffect, useRef, useState } from '../vendor/htm-preact.js';
import { FORMS, visible } from '../format.js';
import { colour, inkOn, rgb, scaleOf, share } from '../scale.js';

const LABELS = 64;
const AXIS = 18;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia('(prefers-color-scheme: dark)');

// Cells are painted one pixel each and enlarged without smoothing: a map of 50 x 600 costs one small image.
function image(values, scale) {
  const rows = values.length;
  const cols = values[0]?.length || 0;
  const small = new OffscreenCanvas(Math.max(cols, 1), Math.max(rows, 1));
  const context = small.getContext('2d');
  const pixels = context.createImageData(small.width, small.height);
  for (let r = 0; r < rows; r += 1) {
    for (let c = 0; c < cols; c += 1) {
      const t = share(values[r][c], scale);
      if (t === null) continue;
      const at = 4 * (r * cols + c);
      [pixels.data[at], pixels.data[at + 1], pixels.data[at + 2]] = rgb(t);
      pixels.data[at + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
  return small;
}

// Position of each row: rows of one group touch, groups are separated by a gap.
function layout(rows, rowHeight, gap) {
  let y = 0;
  return rows.map((row, i) => {
    if (i > 0 && row.group !== rows[i - 1].group) y += gap;
    const top = y;
    y += rowHeight;
    return { top, height: rowHeight };
  });
}

function paint(canvas, { rows, columns, values, scale, pinned }, places, cursor) {
  const dot = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.width = Math.round(width * dot);
  canvas.height = Math.round(height * dot);
  const ctx = canvas.getContext('2d');
  ctx.scale(dot, dot);
  ctx.imageSmoothingEnabled = false;
  const cells = image(values, scale);
  const inner = width - LABELS;
  const step = inner / Math.max(columns.length, 1);
  places.forEach((p, r) => ctx.drawImage(cells, 0, r, cells.width, 1, LABELS, p.top, inner, p.height - (p.height > 9 ? 1 : 0)));
  ctx.font = '11px "Helvetica Neue", Arial, sans-serif';
  ctx.fillStyle = css('--faint-ink');
  ctx.textBaseline = 'middle';
  ctx.textAlign = 'right';
  rows.forEach((row, r) => { if (row.label) ctx.fillText(row.label, LABELS - 8, places[r].top + (row.middle ?? 0.5) * places[r].height, LABELS - 10); });
  const bottom = height - AXIS;
  const ticks = Math.min(columns.length, Math.max(2, Math.floor(inner / 110)));
  const stride = Math.ceil(columns.length / ticks);
  for (let c = (columns.length - 1) % stride; c < columns.length; c += stride) {
    const x = LABELS + (c + 0.5) * step;
    ctx.textAlign = x > width - 24 ? 'right' : 'center';
    ctx.fillText(columns[c].toLocaleString('en-US').slice(0, 18), Math.min(x, width), bottom + AXIS / 2 + 2);
  }
  const line = (c, style, w) => {
    ctx.strokeStyle = style; ctx.lineWidth = w;
    ctx.strokeRect(LABELS + c * step - 0.5, 0.5, Math.max(step, 2) + 1, bottom - 1);
  };
  if (pinned !== null && pinned >= 0) line(pinned, css('--ink'), 1.5);
  if (cursor) {
    line(cursor.c, css('--faint-ink'), 1);
    const p = places[cursor.r];
    ctx.strokeStyle = css('--paper'); ctx.lineWidth = 2;
    ctx.strokeRect(LABELS + cursor.c * step, p.top + 1, Math.max(step, 3), Math.max(p.height - 2, 2));
  }
}

// rows: [{label, name, group}]; columns: steps or names; values[row][column]; onPick(column) pins a column.
export function Painted(given) {
  const { title, rows, columns, values, scale, version, format, rowHeight = 22, gap = 3, pinned = null, onPick, summary, xName = 'step' } = given;
  const canvas = useRef(null);
  const [cursor, setCursor] = useState(null);
  const places = layout(rows, rowHeight, gap);
  const height = (places.length ? places[places.length - 1].top + rowHeight : 0) + AXIS + 4;
  const seen = cursor && cursor.r < rows.length && cursor.c < columns.length ? cursor : null;

  useEffect(() => {
    const draw = () => paint(canvas.current, given, places, seen);
    draw();
    const resize = new ResizeObserver(draw);
    resize.observe(canvas.current);
    dark.addEventListener('change', draw);
    return () => { resize.disconnect(); dark.removeEventListener('change', draw); };
  }, [version, columns.length, rows.length, pinned, seen?.c, seen?.r, scale.min, scale.max, title]);

  const find = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const c = Math.floor(((event.clientX - box.left - LABELS) / (box.width - LABELS)) * columns.length);
    const y = event.clientY - box.top;
    const r = places.findIndex((p) => y >= p.top && y < p.top + p.height + gap);
    return c >= 0 && c < columns.length && r >= 0 ? { r, c } : null;
  };
  const onKey = (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [0, -20], PageDown: [0, 20] }[event.key];
    if (event.key === 'Escape') setCursor(null);
    if (event.key === 'Enter' && seen && onPick) onPick(seen.c);
    if (!move) return;
    event.preventDefault();
    const from = seen || { r: 0, c: columns.length - 1 };
    const clamp = (v, most) => Math.min(most, Math.max(0, v));
    setCursor({ r: clamp(from.r + move[0], rows.length - 1), c: clamp(from.c + move[1], columns.length - 1) });
  };
  const at = seen || (pinned !== null && pinned >= 0 ? null : undefined);
  const words = at ? `${rows[at.r].name} at ${xName} ${columns[at.c].toLocaleString('en-US')}: ${format(values[at.r][at.c])}` : '';

  return html`<div class="heatmap">
    <output class="readout" aria-live="polite">${words}</output>
    <canvas ref=${canvas} tabindex="0" role="img" aria-label=${`${title}. ${summary} Arrow keys read single cells.`} style=${{ height: `${height}px` }}
      onMouseMove=${(event) => setCursor(find(event))} onMouseLeave=${() => setCursor(null)} onKeyDown=${onKey}
      onClick=${(event) => { const cell = find(event); if (cell && onPick) onPick(cell.c); }}></canvas>
  </div>`;
}

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// A table of texts; the arrow keys move between cells. `head` is a row above, `at` the marked cell; onAt(cell) is called on hover
// (null on leaving), onPick(cell) on a click; keyOf(row, column) is the cell's data-cell attribute.
export function Cells({ title, rows, columns, texts, tips, shares, head, at, onAt, onPick, keyOf = (r, c) => `${r}.${c}` }) {
  const body = useRef(null);
  const [own, setOwn] = useState({ r: 0, c: 0 });
  const here = at || own;
  const pick = (cell) => { setOwn(cell); onPick?.(cell); };
  const onKey = (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const clamp = (v, most) => Math.min(most - 1, Math.max(0, v));
    const to = { r: clamp(here.r + move[0], rows.length), c: clamp(here.c + move[1], columns.length) };
    pick(to);
    body.current.querySelector(`[data-cell="${keyOf(to.r, to.c)}"]`)?.focus();
  };
  const cell = (r, c) => {
    const [t, marked] = [shares[r][c], here.r === r && here.c === c];
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
  if (texts.length) {
    return html`<${Cells} title=${title} rows=${rows} columns=${columns} texts=${texts.map((row) => row.map(visible))} shares=${values.map((row) => row.map((v) => share(v, scale)))}
      tips=${tips.length ? tips : values.map((row) => row.map(show))} />`;
  }
  const named = rows.map((name) => ({ label: name, name, group: 0 }));
  return html`<${Painted} title=${title} rows=${named} columns=${columns} values=${values} scale=${scale} format=${show} xName=""
    rowHeight=${Math.max(4, Math.min(22, Math.round(240 / rows.length)))} summary=${`${rows.length} rows and ${columns.length} columns.`} />`;
}
