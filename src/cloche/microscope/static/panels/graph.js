// Nodes in columns, and weighted edges between them.
import { html } from '../vendor/htm-preact.js';
import { number } from '../format.js';
import { colour, scaleOf, share } from '../scale.js';
import { Svg, TALL, WIDE } from './axes.js';

function places(nodes) {
  const columns = [...new Set(nodes.map((node) => node.column))].sort((a, b) => a - b);
  return nodes.map((node, i) => {
    const members = nodes.map((_, j) => j).filter((j) => nodes[j].column === node.column);
    return [(WIDE * (columns.indexOf(node.column) + 0.5)) / columns.length, 24 + ((TALL - 40) * (members.indexOf(i) + 0.5)) / members.length];
  });
}

// A straight line; a curve below the nodes that would lie on it, if there are any.
function arc([x1, y1], [x2, y2], nodes) {
  const between = nodes.filter(([x, y]) => Math.min(x1, x2) < x && x < Math.max(x1, x2) && y === y1 && y === y2);
  const bend = Math.min(90, 34 * between.length);
  return `M${x1.toFixed(1)} ${y1.toFixed(1)}Q${((x1 + x2) / 2).toFixed(1)} ${((y1 + y2) / 2 + bend).toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`;
}

export function Graph({ title, nodes, edges, labels }) {
  const at = places(nodes);
  const scale = scaleOf(nodes.map((node) => node.value));
  const most = Math.max(...edges.map(([, , weight]) => Math.abs(weight)), 1e-30);
  return html`<${Svg} label=${`${title}: ${nodes.length} nodes, ${edges.length} edges`}>
    ${edges.map(([a, b, weight], i) => html`<g key=${i} class=${weight < 0 ? 'second' : 'first'}><path class="edge" d=${arc(at[a], at[b], at)}
      stroke-width=${0.6 + (4 * Math.abs(weight)) / most} stroke-opacity=${0.2 + (0.7 * Math.abs(weight)) / most} /><title>${nodes[a].name} → ${nodes[b].name}: ${labels[i] ?? number(weight)}</title></g>`)}
    ${nodes.map((node, i) => html`<g key=${`node ${i}`} class="node"><circle cx=${at[i][0]} cy=${at[i][1]} r="5" fill=${node.value === null ? undefined : colour(share(node.value, scale))}><title>${node.name} ${node.value === null ? '' : number(node.value)}</title></circle><text x=${at[i][0]} y=${at[i][1] - 9} text-anchor="middle">${node.name}</text></g>`)}</>`;
}
