// Nodes in columns, and weighted edges between them.
import { html } from '../vendor/htm-preact.js';
import { number } from '../format.js';
import { Svg, TALL, WIDE } from './axes.js';

function places(nodes) {
  const columns = [...new Set(nodes.map((node) => node.column))].sort((a, b) => a - b);
  return nodes.map((node, i) => {
    const members = nodes.map((_, j) => j).filter((j) => nodes[j].column === node.column);
    return [(WIDE * (columns.indexOf(node.column) + 0.5)) / columns.length, 24 + ((TALL - 40) * (members.indexOf(i) + 0.5)) / members.length];
  });
}

export function Graph({ title, nodes, edges }) {
  const at = places(nodes);
  const most = Math.max(...edges.map(([, , weight]) => Math.abs(weight)), 1e-30);
  return html`<${Svg} label=${`${title}: ${nodes.length} nodes, ${edges.length} edges`}>
    ${edges.map(([a, b, weight], i) => html`<g key=${i} class=${weight < 0 ? 'second' : 'first'}><line class="edge" x1=${at[a][0]} y1=${at[a][1]} x2=${at[b][0]} y2=${at[b][1]}
      stroke-width=${0.6 + (4 * Math.abs(weight)) / most} stroke-opacity=${0.2 + (0.7 * Math.abs(weight)) / most} /><title>${nodes[a].name} → ${nodes[b].name}: ${number(weight)}</title></g>`)}
    ${nodes.map((node, i) => html`<g key=${`node ${i}`} class="node"><circle cx=${at[i][0]} cy=${at[i][1]} r="5"><title>${node.name} ${node.value === null ? '' : number(node.value)}</title></circle><text x=${at[i][0]} y=${at[i][1] - 9} text-anchor="middle">${node.name}</text></g>`)}</>`;
}
