// Lines over a few named columns, as SVG: scores by the number of units. Every value is also in a table beside it.
import { html } from './vendor/htm-preact.js';

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 270, 40, 14, 12, 40];
export const GLYPHS = ['●', '■', '▲', '◆'];
export const TONES = ['first', 'second', 'third', 'fourth'];

function shape(kind, x, y) {
  const r = 4.2;
  if (kind === 1) return html`<rect x=${x - r} y=${y - r} width=${2 * r} height=${2 * r} />`;
  if (kind === 2) return html`<path d=${`M${x} ${y - r - 1}L${x + r + 1} ${y + r}L${x - r - 1} ${y + r}Z`} />`;
  if (kind === 3) return html`<path d=${`M${x} ${y - r - 1}L${x + r + 1} ${y}L${x} ${y + r + 1}L${x - r - 1} ${y}Z`} />`;
  return html`<circle cx=${x} cy=${y} r=${r} />`;
}

// series: [{name, values, faint}], null where a column has no value; a faint one is drawn thin and without marks.
export function Lines({ label, columns, series, xName, format }) {
  const known = series.flatMap((s) => s.values).filter((v) => v !== null);
  const low = Math.min(Math.floor(10 * Math.min(...known) + 1e-9) / 10, 0.8);
  const x = (i) => LEFT + ((WIDTH - LEFT - RIGHT) * (i + 0.5)) / columns.length;
  const y = (v) => TOP + ((HEIGHT - TOP - BOTTOM) * (1 - v)) / (1 - low);
  const ticks = [];
  for (let tick = Math.round(10 * low); tick <= 10; tick += low < 0.4 ? 2 : 1) ticks.push(tick / 10);
  const solid = series.filter((s) => !s.faint);
  const words = solid.map((s) => `${s.name}: ${columns.map((c, i) => (s.values[i] === null ? null : `${c} ${format(s.values[i])}`)).filter(Boolean).join(', ')}`);
  return html`<svg class="lines" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${`${label}. ${words.join('. ')}.`}>
    ${ticks.map((tick) => html`<g key=${tick}><line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(tick)} y2=${y(tick)} /><text x=${LEFT - 8} y=${y(tick) + 4} text-anchor="end">${tick.toFixed(1)}</text></g>`)}
    ${columns.map((c, i) => html`<text key=${c} x=${x(i)} y=${HEIGHT - BOTTOM + 18} text-anchor="middle">${c}</text>`)}
    <text x=${(LEFT + WIDTH - RIGHT) / 2} y=${HEIGHT - 4} text-anchor="middle">${xName}</text>
    ${series.map((s) => {
      const points = s.values.map((v, i) => [x(i), v === null ? null : y(v), v]).filter(([, at]) => at !== null);
      return html`<g key=${s.name} class=${`${TONES[s.tone]} ${s.faint ? 'faint' : ''}`}><polyline points=${points.map(([a, b]) => `${a},${b}`).join(' ')} />
        ${!s.faint && points.map(([a, b, v]) => html`<g key=${a}>${shape(s.tone, a, b)}<title>${s.name}: ${format(v)}</title></g>`)}</g>`;
    })}
  </svg>`;
}
