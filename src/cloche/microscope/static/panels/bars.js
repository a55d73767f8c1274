// A bar per row, or a dot with its spread if the axis is logarithmic or the series has a spread; with named bands in the background.
import { html } from '../vendor/htm-preact.js';
import { FORMS } from '../format.js';
import { share } from '../scale.js';
import { tones } from './series.js';

const DECADES = 4;
const across = (from, to) => ({ left: `${Math.min(from, to)}%`, width: `${Math.abs(to - from)}%` });
const known = (values) => values.filter((v) => v !== null && v !== undefined);
const Heads = ({ kind, places }) => places.length > 0 && html`<p class=${kind} aria-hidden="true">${places.map(([place, text]) => html`<span key=${text} style=${{ left: `${place}%` }}>${text}</span>`)}</p>`;

export function Bars({ rows, series, form, log = false, start = 0, bands = [], title }) {
  const values = known([start, ...series.flatMap((s) => [...s.values, ...(s.low || []), ...(s.high || [])])]);
  const [low, high] = [Math.min(...values), Math.max(...values, ...bands.map((band) => band[2]))];
  const top = high > 0 ? Math.ceil(Math.log10(high)) : 0;
  const scale = log ? { min: 10 ** (top - DECADES), max: 10 ** top, log } : { min: low, max: high > low ? high : low + 1 };
  const at = (v) => 100 * share(v, scale);
  const show = FORMS[form];
  const marks = log ? [4, 3, 2, 1, 0].map((i) => 10 ** (top - i)) : [];
  const places = bands.map(([name, from, to]) => [at(from), at(to), name]);
  const drawn = (s, tone, i) => {
    const [value, kind] = [s.values[i], `${tone} ${s.control ? 'faint' : ''}`];
    if (value === null) return null;
    if (!log && !s.low?.length) return html`<b class=${`bar ${kind}`} style=${across(at(start), at(value))}></b>`;
    const reach = known([s.low?.[i], s.high?.[i]]);
    return html`${reach.length === 2 && html`<b class=${`reach ${kind}`} style=${across(...reach.map(at))}></b>`}<b class=${`dot ${kind}`} style=${{ left: `${at(value)}%` }}></b>`;
  };
  const coloured = tones(series);
  return html`<div class="measures"><${Heads} kind="bands" places=${places.map(([from, to, name]) => [(from + to) / 2, name])} />
    <ul aria-label=${title}>${rows.map((name, i) => html`<li key=${i}><span class="name">${name}</span>
      <i>${places.map(([from, to, band]) => html`<b key=${band} class="band" style=${across(from, to)}></b>`)}${series.map((s, n) => drawn(s, coloured[n], i))}</i>
      <span class="num">${series.map((s, n) => html`<b key=${n} class=${coloured[n]}>${show(s.values[i])}</b>`)}</span></li>`)}</ul>
    <${Heads} kind="ticks" places=${marks.map((value) => [at(value), show(value)])} /></div>`;
}
