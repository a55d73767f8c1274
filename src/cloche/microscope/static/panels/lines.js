// Series over numbers or names, with their spread and marks.
import { html } from '../vendor/htm-preact.js';
import { FORMS } from '../format.js';
import { BOTTOM, Grid, Svg, TALL, TOP, place, spread } from './axes.js';
import { TONES, tones } from './series.js';

const SHAPES = [null, [[-1, -1], [1, -1], [1, 1], [-1, 1]], [[0, -1.2], [1.2, 1], [-1.2, 1]], [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]];
function Glyph({ tone, x, y, r = 4 }) {
  const corners = SHAPES[TONES.indexOf(tone)];
  return corners ? html`<path d=${`M${corners.map(([a, b]) => `${x + r * a} ${y + r * b}`).join('L')}Z`} />` : html`<circle cx=${x} cy=${y} r=${r} />`;
}

export function Lines({ title, x, series, x_name: xName, y_name: yName, form, low, high, marks }) {
  const named = typeof x[0] === 'string';
  const at = x.map((v, i) => (named ? i : v));
  const show = FORMS[form];
  const values = series.flatMap((s) => [...s.values, ...s.low, ...s.high]).filter((v) => v !== null);
  const across = named ? [-0.5, x.length - 0.5] : at.length ? [Math.min(...at), Math.max(...at)] : [0, 1];
  const up = spread(values, low, high);
  const to = place(across, up);
  const path = (points) => (points.length ? `M${points.map(([a, b]) => `${to.x(a)} ${to.y(b)}`).join('L')}` : '');
  const solid = series.filter((s) => !s.control);
  const told = (s) => `${s.name}: ${s.values.length > 12 ? `from ${show(s.values[0])} to ${show(s.values[s.values.length - 1])}` : x.map((v, i) => (s.values[i] === null ? null : `${v} ${show(s.values[i])}`)).filter(Boolean).join(', ')}`;
  const colours = tones(series);
  return html`<${Svg} label=${`${title}. ${solid.map(told).join('. ')}.`}><${Grid} across=${across} up=${up} xName=${xName} yName=${yName} names=${named ? x : null} format=${show} />
    ${marks.map(([v, text], i) => html`<g key=${`mark ${i}`}><line class="alarm" x1=${to.x(v)} x2=${to.x(v)} y1=${TOP} y2=${TALL - BOTTOM} /><title>${text}</title></g>`)}
    ${series.map((s, n) => {
      const points = at.map((v, i) => [v, s.values[i]]).filter(([, v]) => v !== null);
      const around = s.low.length ? [...at.map((v, i) => [v, s.high[i]]), ...at.map((v, i) => [v, s.low[i]]).reverse()].filter(([, v]) => v !== null && v !== undefined) : [];
      return html`<g key=${n} class=${`${colours[n]} ${s.control ? 'faint' : ''}`}>${around.length > 0 && html`<path class="spread" d=${`${path(around)}Z`} />`}<path class="curve" d=${path(points)} />
        ${!s.control && points.length <= 40 && points.map(([a, b]) => html`<g key=${a}><${Glyph} tone=${colours[n]} x=${to.x(a)} y=${to.y(b)} /><title>${s.name} ${show(b)}</title></g>`)}</g>`;
    })}</>`;
}
