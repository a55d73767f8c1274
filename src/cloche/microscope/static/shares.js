// A crosscoder feature's share per site: a divided bar; each site has a fixed colour, the first is the darkest.
import { html } from './vendor/htm-preact.js';
import { percent } from './format.js';
import { colour } from './scale.js';

const tint = (i, count) => colour(0.3 + (0.5 * i) / Math.max(1, count - 1));

export function PlaceKey({ places, shares }) {
  return html`<p class="key places">${places.map((place, i) => html`<span key=${place}><i style=${{ background: tint(i, places.length) }}></i>${place}${shares && html` <b class="num">${percent(shares[i], 0)}</b>`}</span>`)}</p>`;
}

export function Shares({ places, shares, named = false }) {
  if (!(places?.length > 1) || shares?.length !== places.length) return null;
  const words = places.map((place, i) => `${place} ${percent(shares[i], 0)}`).join(', ');
  const bar = html`<span class="shares" role="img" aria-label=${words} title=${words}>${places.map((place, i) => html`<i key=${place} style=${{ width: `${100 * shares[i]}%`, background: tint(i, places.length) }}></i>`)}</span>`;
  return named ? html`<div class="placed">${bar}<${PlaceKey} places=${places} shares=${shares} /></div>` : bar;
}
