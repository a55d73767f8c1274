// A dictionary as a whole: what it explains, what its encoder misses, and what the model keeps with it put back.
import { html } from './vendor/htm-preact.js';
import { fixed, number, percent, short, whole } from './format.js';
import { Lengths } from './measures.js';

// Every dictionary that anything was found of: each features finding with the newest measurement of the same dictionary at the
// same checkpoint, and each measurement that has no features beside it. Findings come newest first; those with features lead,
// so that measuring one dictionary does not put another out of sight.
export function dictionaries(findings) {
  const same = (a) => (b) => a.of === b.of && a.checkpoint === b.checkpoint;
  const measured = findings.filter((finding) => finding.instrument === 'dictionary');
  const read = findings.filter((finding) => finding.instrument === 'features');
  const bare = measured.filter((finding, i) => !read.some(same(finding)) && measured.findIndex(same(finding)) === i);
  return [
    ...read.map((finding) => ({ ...finding, features: finding.id, measured: measured.find(same(finding))?.id })),
    ...bare.map((finding) => ({ ...finding, features: null, measured: finding.id })),
  ];
}

export function Command({ children, command }) {
  return html`<p class="note command">${children} <code>${command}</code></p>`;
}

// What was found with the features and what was measured are of different tokens; the measurement, where there is one, speaks.
export function Facts({ list, measured }) {
  const data = measured || list;
  const facts = [['dictionary', data.dictionary], ['site', data.site]];
  if (measured) facts.push(['kind', `${String(measured.kind).replace(/-sae$/, '')} ${measured.wiring || ''}`], ['features', whole(measured.features)]);
  facts.push(['variance explained', percent(data.fvu === null || data.fvu === undefined ? null : 1 - data.fvu)], ['active per token', fixed(data.l0, 1)],
    ['never active', percent(data.dead_share)], ['tokens read', short(data.tokens_seen)]);
  return html`<dl class="figures">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function Kept({ recovered }) {
  const { clean, spliced, ablated, share, kl } = recovered;
  const rows = [['the model itself', clean, 'first'], ['with the reconstruction', spliced, 'second'], ['with the mean', ablated, 'plain']];
  return html`<section class="kept"><h3>What the model keeps</h3>
    <${Lengths} label="cross-entropy, nats per token" rows=${rows} from=${clean} format=${(v) => fixed(v, 3)} />
    <p class="note">Cross-entropy, nats per token; the bars are what is added to the model’s own. ${share === null || share === undefined
      ? 'The mean costs nothing here, so no share can be recovered;'
      : html`<b class="num">${percent(share)}</b> of what the mean costs is recovered;`} KL <b class="num">${number(kl)}</b> nats from the model’s own predictions.</p></section>`;
}

function Gap({ gap }) {
  const rows = [['its own encoder', gap.own.fvu, 'first'], ['OMP, same atoms', gap.same_atoms.fvu, 'second']];
  const better = gap.of_encoder > 0;
  return html`<section class="gap"><h3>What its encoder misses</h3>
    <${Lengths} label="variance left out" rows=${rows} format=${(v) => percent(v)} />
    <p class="note">Variance left out, by the encoder and by non-negative orthogonal matching pursuit. ${better
      ? html`A better encoder would explain <b class="num">${percent(gap.of_encoder)}</b> more.` : 'The pursuit does no better.'}</p></section>`;
}

export function Measured({ data }) {
  return html`<${Kept} recovered=${data.recovered} />${data.gap && html`<${Gap} gap=${data.gap} />`}`;
}
