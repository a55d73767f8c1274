// Labelled rows on one scale: bars, dots and reaches, with bands behind them; and a bar that is divided into shares.
import { html } from './vendor/htm-preact.js';
import { percent } from './format.js';
import { colour } from './scale.js';

const inside = (place) => Math.min(100, Math.max(0, place));

// A mark is a bar or a reach (a thin line) from one value to another, or a dot at one.
function Mark({ mark, at }) {
  const [from, to] = mark.kind === 'dot' ? [inside(at(mark.at)), null] : [inside(at(mark.from)), inside(at(mark.to))];
  const style = to === null ? { left: `${from}%` } : { left: `${Math.min(from, to)}%`, width: `${Math.abs(to - from)}%` };
  return html`<b class=${`${mark.kind} ${mark.tone || 'first'}`} style=${style}></b>`;
}

// rows: [{name, marks, text, title}]; at: where a value stands, in percent; bands: [{name, from, to}]; ticks: [[value, text]].
export function Measures({ label, rows, at, bands = [], ticks = [] }) {
  return html`<div class="measures">
    ${bands.length > 0 && html`<p class="bands" aria-hidden="true">${bands.map((band) => html`<span key=${band.name}
      style=${{ left: `${(inside(at(band.from)) + inside(at(band.to))) / 2}%` }}>${band.name}</span>`)}</p>`}
    <ul aria-label=${label}>${rows.map((row) => html`<li key=${row.name} title=${row.title}>
      <span class="name">${row.name}</span>
      <i>${bands.map((band) => html`<b key=${band.name} class="band" style=${{ left: `${inside(at(band.from))}%`, width: `${inside(at(band.to)) - inside(at(band.from))}%` }}></b>`)}
        ${row.marks.map((mark, i) => html`<${Mark} key=${i} mark=${mark} at=${at} />`)}</i>
      <span class="num">${row.text}</span>
    </li>`)}</ul>
    ${ticks.length > 0 && html`<p class="ticks" aria-hidden="true">${ticks.map(([value, text]) => html`<span key=${text} style=${{ left: `${inside(at(value))}%` }}>${text}</span>`)}</p>`}
  </div>`;
}

// Bars from zero or from another value, the furthest full width. rows: [[name, value, tone]].
export function Lengths({ label, rows, format, from = 0 }) {
  const values = [from, ...rows.map(([, value]) => value)];
  const low = Math.min(...values);
  const wide = Math.max(...values) - low || 1;
  return html`<${Measures} label=${label} at=${(value) => (100 * (value - low)) / wide}
    rows=${rows.map(([name, value, tone]) => ({ name, text: format(value), marks: [{ kind: 'bar', from, to: value, tone }] }))} />`;
}

// The places of a dictionary keep their colours wherever they are shown; the first is the darkest.
const tint = (i, count) => colour(0.3 + (0.5 * i) / Math.max(1, count - 1));
const told = (places, shares) => places.map((place, i) => `${place} ${percent(shares[i], 0)}`).join(', ');

export function PlaceKey({ places }) {
  return html`<p class="key places">${places.map((place, i) => html`<span key=${place}><i style=${{ background: tint(i, places.length) }}></i>${place}</span>`)}</p>`;
}

// Where a feature lives: its shares of the places, which sum to 1. Nothing is said of a single place.
export function Shares({ places, shares, named = false }) {
  if (!(places?.length > 1) || shares?.length !== places.length) return null;
  const words = told(places, shares);
  const bar = html`<span class="shares" role="img" aria-label=${words} title=${words}>${places.map((place, i) => html`<i key=${place}
    style=${{ width: `${100 * shares[i]}%`, background: tint(i, places.length) }}></i>`)}</span>`;
  if (!named) return bar;
  return html`<div class="placed">${bar}<p class="key places">${places.map((place, i) => html`<span key=${place}><i style=${{ background: tint(i, places.length) }}></i>${place} <b class="num">${percent(shares[i], 0)}</b></span>`)}</p></div>`;
}
