// The frame of an SVG drawing: coordinates of values, and a grid with its labels.
import { html } from '../vendor/htm-preact.js';
import { number } from '../format.js';

export const [WIDE, TALL, LEFT, RIGHT, TOP, BOTTOM] = [640, 270, 60, 26, 12, 44];

export function ticks(low, high, about = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  return Array.from({ length: Math.floor(high / size) - Math.ceil(low / size) + 1 }, (_, i) => size * (Math.ceil(low / size) + i));
}

// Minimum and maximum of values with 5% padding.
export function spread(values, low = null, high = null) {
  const [least, most] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const pad = (most - least) * 0.05 || Math.abs(most) * 0.05 || 1;
  return [low ?? least - pad, high ?? most + pad];
}

export function place([x0, x1], [y0, y1]) {
  const [wide, tall] = [x1 - x0 || 1, y1 - y0 || 1];
  return { x: (v) => LEFT + ((WIDE - LEFT - RIGHT) * (v - x0)) / wide, y: (v) => TALL - BOTTOM - ((TALL - TOP - BOTTOM) * (v - y0)) / tall };
}

export function Grid({ across, up, xName, yName, names, format = number }) {
  const { x, y } = place(across, up);
  const step = Math.max(1, Math.floor((names?.length || 0) / 12));
  const below = names ? names.map((name, i) => [i, name]).filter(([i]) => i % step === 0) : ticks(...across, 6).map((v) => [v, number(v)]);
  return html`${ticks(...up).map((v) => html`<g key=${v}><line class="grid" x1=${LEFT} x2=${WIDE - RIGHT} y1=${y(v)} y2=${y(v)} /><text x=${LEFT - 7} y=${y(v) + 4} text-anchor="end">${format(v)}</text></g>`)}
    ${below.map(([v, text]) => html`<text key=${v} x=${x(v)} y=${TALL - BOTTOM + 19} text-anchor="middle">${text}</text>`)}
    <text x=${(LEFT + WIDE - RIGHT) / 2} y=${TALL - 4} text-anchor="middle">${xName}</text>${yName && html`<text x=${LEFT} y=${TOP - 2}>${yName}</text>`}`;
}

export const Svg = ({ label, children, ...more }) => html`<svg viewBox=${`0 0 ${WIDE} ${TALL}`} role="img" aria-label=${label} ...${more}>${children}</svg>`;
