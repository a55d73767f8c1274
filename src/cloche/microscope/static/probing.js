// Sparse probing: how well the best few units of a basis tell a label, for a dictionary's features, the neurons and the residual axes.
import { html } from './vendor/htm-preact.js';
import { Choice, Select } from './controls.js';
import { Waiting, Which, useFinding } from './finding.js';
import { fixed, percent, whole } from './format.js';
import { GLYPHS, Lines, TONES } from './lines.js';
import { link } from './route.js';

const SCORES = [['auroc', 'AUROC'], ['f1', 'F1'], ['balanced_accuracy', 'balanced accuracy']];
const ALL = 'all';
const DISORDER = 'labels in disorder';
const KINDS = { features: 'SAE features', mlp_act: 'neurons', resid_post: 'residual axes' };
const called = (name) => KINDS[name.split('[')[0]] || name;
const show = (value) => fixed(value, 2);
const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;

// A basis' scores over some labels, the mean of each column: by k, with all units, and by k for labels in disorder.
function scores(labels, basis, score) {
  const told = labels.map((label) => label.bases[basis]);
  const each = (pick) => told[0][pick].map((_, i) => mean(told.map((t) => t[pick][i][score])));
  return { byK: each('k'), all: mean(told.map((t) => t.dense[score])), disorder: each('shuffled') };
}

function Scores({ data, found }) {
  const rows = data.bases.flatMap((basis, i) => [[basis.name, called(basis.name), [...found[i].byK, found[i].all], false], [`${basis.name} in disorder`, DISORDER, [...found[i].disorder, null], true]]);
  return html`<div class="scroll"><table class="data"><caption>By number of units, on ${whole(data.held_out)} held-out tokens. All units at once are the ceiling, ${DISORDER} the control.</caption>
    <thead><tr><th scope="col">basis</th>${data.ks.map((k) => html`<th scope="col" key=${k}>${k}</th>`)}<th scope="col">${ALL}</th></tr></thead>
    <tbody>${rows.map(([key, name, values, faint]) => html`<tr key=${key} class=${faint ? 'faint' : ''}><th scope="row">${name}</th>${values.map((v, i) => html`<td key=${i}>${v === null ? '' : show(v)}</td>`)}</tr>`)}</tbody></table></div>`;
}

// Each label at one number of units: the basis that tells it best stands out, and the label's name shows its curve.
function ByLabel({ data, score, k, state }) {
  const column = data.ks.map(String).indexOf(k);
  const of = (label, basis) => (k === ALL ? label.bases[basis].dense[score] : label.bases[basis].k[column][score]);
  return html`<div class="scroll"><table class="data"><caption>Each label with ${k === ALL ? 'all units' : k === '1' ? 'the best unit' : `the best ${k} units`}.</caption>
    <thead><tr><th scope="col">label</th><th scope="col">share of tokens</th>${data.bases.map((b) => html`<th scope="col" key=${b.name}>${called(b.name)}</th>`)}</tr></thead>
    <tbody>${data.labels.map((label) => {
      const values = data.bases.map((b) => of(label, b.name));
      const best = Math.max(...values);
      return html`<tr key=${label.name}><th scope="row"><a href=${link('features', { ...state, label: label.name })}>${label.name}</a></th><td>${percent(label.rate)}</td>${values.map((v, i) => html`<td key=${i} class=${show(v) === show(best) ? 'here' : ''}>${show(v)}</td>`)}</tr>`;
    })}</tbody></table></div>`;
}

export function Probing({ run, state, change, tabs }) {
  const { heads, head, value, error } = useFinding(run, 'sparse-probing', state.probing);
  if (!value) return html`<div class="toolbar">${tabs}</div><${Waiting} error=${error} />`;
  const { data } = value;
  const [score, scoreName] = SCORES.find(([key]) => key === state.score) || SCORES[0];
  const chosen = data.labels.filter((label) => label.name === state.label);
  const labels = chosen.length ? chosen : data.labels;
  const k = [...data.ks.map(String), ALL].includes(state.k) ? state.k : String(data.ks[0]);
  const found = data.bases.map((basis) => scores(labels, basis.name, score));
  const series = data.bases.flatMap((basis, i) => [
    { name: `${called(basis.name)}, ${DISORDER}`, values: [...found[i].disorder, null], tone: i % TONES.length, faint: true },
    { name: called(basis.name), values: [...found[i].byK, found[i].all], tone: i % TONES.length },
  ]);
  const of = chosen.length ? `“${chosen[0].name}”` : `mean of ${data.labels.length} labels`;
  const skipped = Object.entries(data.skipped || {});
  return html`
    <div class="toolbar">${tabs}
      <${Choice} name="score" label="score" value=${score} options=${SCORES} onChange=${(key) => change({ score: key === 'auroc' ? null : key })} />
      <${Select} label="label" value=${chosen[0]?.name || ''} options=${[['', 'mean of all'], ...data.labels.map((label) => [label.name, label.name])]} onChange=${(label) => change({ label })} />
      <${Which} heads=${heads} head=${head} onChange=${(probing) => change({ probing })} /></div>
    <p class="lead">How well the best few units of each basis at ${data.site} tell what a token is.</p>
    <div class="probing"><figure class="chart"><figcaption><h3>${scoreName}, ${of}</h3></figcaption>
      <p class="key glyphs plain">${data.bases.map((basis, i) => html`<span key=${basis.name} class=${TONES[i % TONES.length]}>${GLYPHS[i % GLYPHS.length]} ${called(basis.name)} <small>${basis.name === 'features' ? '' : basis.name} ${whole(basis.units)}</small></span>`)}<span class="control">${DISORDER}</span></p>
      <${Lines} label=${`${scoreName}, ${of}, by number of units`} columns=${[...data.ks.map(String), ALL]} series=${series} xName="best units" format=${show} /></figure>
    <${Scores} data=${data} found=${found} /></div>
    <div class="toolbar"><${Choice} name="k" label="units" value=${k} options=${[...data.ks.map(String), ALL].map((key) => [key, key])} onChange=${(key) => change({ k: key === String(data.ks[0]) ? null : key })} /></div>
    <${ByLabel} data=${data} score=${score} k=${k} state=${state} />
    ${skipped.length > 0 && html`<p class="note">Left out: ${skipped.map(([name, why]) => `${name} (${why})`).join(', ')}.</p>`}`;
}
