// The colour scale labelled at its ends, and in the middle if that is not half way.
import { html } from '../vendor/htm-preact.js';
import { colour } from '../scale.js';

const stops = (from, to) => Array.from({ length: 16 }, (_, i) => colour(from + ((to - from) * i) / 15)).join(', ');
const bar = (from, to) => html`<i style=${{ backgroundImage: `linear-gradient(90deg, ${stops(from, to)})` }}></i>`;

export function Legend({ scale: { min, max, root }, format }) {
  const between = root ? html`${bar(0, 0.5)}<span>${format(min + (max - min) / 4)}</span>${bar(0.5, 1)}` : bar(0, 1);
  return html`<span class="legend"><span>${format(min)}</span>${between}<span>${format(max)}</span></span>`;
}
