// Colours, marks and names of series. A control shares the colour of the series before it.
import { html } from '../vendor/htm-preact.js';

export const TONES = ['first', 'second', 'third', 'fourth'];
const GLYPHS = ['●', '■', '▲', '◆'];

export function tones(series) {
  let at = -1;
  return series.map((s) => { if (!s.control || at < 0) at += 1; return TONES[at % TONES.length]; });
}

export function Key({ series }) {
  if (!(series?.length > 1)) return null;
  return html`<p class="series">${tones(series).map((tone, i) => html`<span key=${i} class=${tone}><i>${series[i].control ? '┄' : GLYPHS[TONES.indexOf(tone)]}</i>${series[i].name}</span>`)}</p>`;
}
