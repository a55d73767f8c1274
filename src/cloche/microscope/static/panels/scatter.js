// Points in two or three dimensions; three are turned by dragging or with the arrow keys.
import { html, useState } from '../vendor/htm-preact.js';
import { number } from '../format.js';
import { colour, scaleOf, share } from '../scale.js';
import { Grid, Svg, TALL, WIDE, place, spread } from './axes.js';

const KEYS = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };

function flat([x, y, z], [turn, tilt]) {
  if (z === undefined) return [x, y, 0];
  const [across, away] = [x * Math.cos(turn) + y * Math.sin(turn), y * Math.cos(turn) - x * Math.sin(turn)];
  return [across, z * Math.cos(tilt) + away * Math.sin(tilt), z * Math.sin(tilt) - away * Math.cos(tilt)];
}

export function Scatter({ title, points, axes, labels, values }) {
  const [view, turn] = useState([0.6, 0.4]);
  const solid = axes.length === 3;
  const by = (dx, dy) => turn(([a, b]) => [a + dx, b + dy]);
  const placed = points.map((point, i) => [...flat(point, view), i]);
  const [across, up] = [spread(placed.map((p) => p[0])), spread(placed.map((p) => p[1]))];
  const to = place(across, up);
  const scale = scaleOf(values);
  const said = (i) => [labels[i], ...points[i].map(number)].filter(Boolean).join(' ');
  const turning = solid ? {
    tabindex: 0, onPointerMove: (event) => { if (event.buttons) by(event.movementX / 120, event.movementY / 120); },
    onKeyDown: (event) => { if (KEYS[event.key]) { event.preventDefault(); by(...KEYS[event.key]); } },
  } : {};
  return html`<${Svg} label=${`${title}: ${points.length} points over ${axes.join(' and ')}${solid ? '; the arrow keys turn them' : ''}`} ...${turning}>
    ${solid ? html`<text x=${WIDE / 2} y=${TALL - 4} text-anchor="middle">${axes.join(' · ')}</text>` : html`<${Grid} across=${across} up=${up} xName=${axes[0]} yName=${axes[1]} />`}
    ${placed.sort((a, b) => a[2] - b[2]).map(([x, y, , i]) => html`<g key=${i} class="first"><circle cx=${to.x(x)} cy=${to.y(y)} r="3.4" fill=${values[i] === null || values[i] === undefined ? undefined : colour(share(values[i], scale))}><title>${said(i)}</title></circle></g>`)}</>`;
}
