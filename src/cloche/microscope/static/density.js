// How sparse a model is in its own units: the share of its neurons active at a token, layer by layer, on a logarithmic scale.
import { html } from './vendor/htm-preact.js';
import { Choice } from './controls.js';
import { Waiting, Which, useFinding } from './finding.js';
import { fixed, percent, whole } from './format.js';
import { Measures } from './measures.js';

const DECADES = 4;
const at = (share) => 100 * (1 + Math.max(Math.log10(Math.max(share, 1e-12)), -DECADES) / DECADES);
const TICKS = [[0.0001, '0.01 %'], [0.001, '0.1 %'], [0.01, '1 %'], [0.1, '10 %'], [1, '100 %']];
const KINDS = { mlp_act: ['neurons', 'first'], resid_post: ['residual stream', 'second'] };
const FITTING = 'fitting';

const kindOf = (site) => site.site.split('[')[0];
const layerOf = (site) => Number(/\[(\d+)\]/.exec(site.site)?.[1] ?? 0);
const named = (kind) => (KINDS[kind] ? KINDS[kind][0] : kind);
const tone = (kind) => (KINDS[kind] ? KINDS[kind][1] : 'third');

// One row a layer, the last on top: a dot a kind of unit, with the span from the tenth to the ninetieth percentile of the tokens.
function layers(data, criterion) {
  const which = (site) => data.criteria.indexOf(criterion === FITTING ? site.headline : criterion);
  const numbers = [...new Set(data.sites.map(layerOf))].sort((a, b) => b - a);
  return numbers.map((layer) => {
    const sites = data.sites.filter((site) => layerOf(site) === layer);
    const marks = sites.flatMap((site) => {
      const [few, , many] = site.quantiles[which(site)];
      return [{ kind: 'reach', from: few, to: many, tone: tone(kindOf(site)) }, { kind: 'dot', at: site.density[which(site)], tone: tone(kindOf(site)) }];
    });
    const shown = sites.map((site) => html`<b key=${site.site} class=${tone(kindOf(site))}><span class="hidden">${named(kindOf(site))} </span>${percent(site.density[which(site)])} </b>`);
    const title = sites.map((site) => `${site.site}: ${percent(site.density[which(site)], 2)} ${data.criteria[which(site)]}`).join('\n');
    return { name: `layer ${layer}`, marks, text: shown, title };
  });
}

function Sites({ data }) {
  const ordered = [...data.sites].sort((a, b) => data.sites.findIndex((s) => kindOf(s) === kindOf(a)) - data.sites.findIndex((s) => kindOf(s) === kindOf(b)) || layerOf(b) - layerOf(a));
  const dead = (site) => percent(site.dead[data.criteria.indexOf(site.headline)]);
  return html`<div class="scroll"><table class="data"><caption>Share of the units active at a token, by what counts as active. Hoyer’s sparsity is 0 where all units are alike and 1 where one alone speaks; Gaussian units have a kurtosis of 3.</caption>
    <thead><tr><th scope="col">site</th><th scope="col">units</th>${data.criteria.map((name) => html`<th scope="col" key=${name}>${name}</th>`)}<th scope="col">never active</th><th scope="col">Hoyer</th><th scope="col">kurtosis</th></tr></thead>
    <tbody>${ordered.map((site) => html`<tr key=${site.site}><th scope="row">${site.site}</th><td>${whole(site.units)}</td>${site.density.map((share, i) => html`<td key=${i} class=${data.criteria[i] === site.headline ? 'here' : ''}>${percent(share, 2)}</td>`)}<td>${dead(site)}</td><td>${fixed(site.hoyer, 2)}</td><td>${fixed(site.kurtosis, 1)}</td></tr>`)}
      <tr><th scope="row">Gaussian units</th><td></td>${data.gaussian.density.map((share, i) => html`<td key=${i}>${percent(share, 2)}</td>`)}<td></td><td>${fixed(data.gaussian.hoyer, 2)}</td><td>${fixed(data.gaussian.kurtosis, 1)}</td></tr></tbody></table></div>`;
}

export function Density({ run, state, change, tabs }) {
  const { heads, head, value, error } = useFinding(run, 'activation-density', state.density);
  if (!value) return html`<div class="toolbar">${tabs}</div><${Waiting} error=${error} />`;
  const { data } = value;
  const criterion = data.criteria.includes(state.active) ? state.active : FITTING;
  const kinds = [...new Set(data.sites.map(kindOf))];
  const bands = Object.entries(data.claims).map(([name, [from, to]]) => ({ name, from, to }));
  const skipped = Object.entries(data.skipped || {});
  return html`
    <div class="toolbar">${tabs}
      <${Choice} name="active" label="active is" value=${criterion} options=${[[FITTING, 'what fits the units'], ...data.criteria.map((name) => [name, name])]} onChange=${(key) => change({ active: key === FITTING ? null : key })} />
      <${Which} heads=${heads} head=${head} onChange=${(density) => change({ density })} /></div>
    <p class="lead">${value.summary}</p>
    <figure class="by-layer"><figcaption><h3>Share of the units active at a token</h3>
      <p class="key glyphs">${kinds.map((kind) => html`<span key=${kind} class=${tone(kind)}>${named(kind)}</span>`)}</p></figcaption>
      <${Measures} label="share of the units active at a token, by layer" rows=${layers(data, criterion)} at=${at} bands=${bands} ticks=${TICKS} />
      <p class="note">A dot is the mean over the tokens, the line beside it runs from their 10th to their 90th percentile. The bands are what is said of transformers and of cortex.${skipped.length > 0 && html` Left out: ${skipped.map(([layer, map]) => `layer ${layer} (${map})`).join(', ')}.`}</p></figure>
    <${Sites} data=${data} />`;
}
