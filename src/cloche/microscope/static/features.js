// Features of sparse dictionaries: where they are active and which tokens they promote.
import { html, useMemo, useState } from './vendor/htm-preact.js';
import { Choice, Empty, Ranked, Select, Sentence } from './controls.js';
import { featuresCommand, saeCommand } from './commands.js';
import { fixed, number, percent, short, visible, whole } from './format.js';
import { Figures } from './panels/figures.js';
import { Found, Panel } from './panels/panel.js';
import { PlaceKey, Shares } from './shares.js';
import { Lit } from './panels/tokens.js';
import { link } from './route.js';
import { get, post, useAnswer, useGet, useStore } from './store.js';

const PAGE = 60;
const SORTS = {
  telling: ['most telling', (a, b) => a.place - b.place],
  common: ['most common', (a, b) => b.density - a.density],
  rare: ['rarest', (a, b) => a.density - b.density],
  strong: ['strongest', (a, b) => b.max - a.max],
};

// An example as in a concordance: the peaks are aligned in one column, so that the list can be scanned.
function Around({ example, max }) {
  const { tokens, acts, peak } = example;
  const part = (from, to) => html`<${Lit} tokens=${tokens.slice(from, to)} values=${acts.slice(from, to)} high=${max} />`;
  return html`<span class="around"><span class="before">${part(0, peak)}</span><span class="after">${part(peak)}</span></span>`;
}

// All dictionaries with findings: each features finding with the newest measurement of the same dictionary at the same
// checkpoint, then each measurement without features. Newest first; those with features come first, so that measuring one
// dictionary does not hide another.
function dictionaries(findings) {
  const same = (a) => (b) => a.of === b.of && a.checkpoint === b.checkpoint;
  const measured = findings.filter((finding) => finding.instrument === 'dictionary');
  const read = findings.filter((finding) => finding.instrument === 'features');
  const bare = measured.filter((finding, i) => !read.some(same(finding)) && measured.findIndex(same(finding)) === i);
  return [
    ...read.map((finding) => ({ ...finding, features: finding.id, measured: measured.find(same(finding))?.id })),
    ...bare.map((finding) => ({ ...finding, features: null, measured: finding.id })),
  ];
}

const Command = ({ children, command }) => html`<p class="note command">${children} <code>${command}</code></p>`;

// The features and the measurement were computed on different tokens; the measurement takes precedence.
function Facts({ list, measured }) {
  const data = measured || list;
  const facts = [['dictionary', data.dictionary], ['site', data.site]];
  if (measured) facts.push(['kind', `${String(measured.kind).replace(/-sae$/, '')} ${measured.wiring || ''}`.trim()], ['features', whole(measured.features)]);
  facts.push(['variance explained', percent(data.fvu === null || data.fvu === undefined ? null : 1 - data.fvu)], ['active per token', fixed(data.l0, 1)],
    ['never active', percent(data.dead_share)], ['tokens read', short(data.tokens_seen)]);
  return html`<${Figures} pairs=${facts} />`;
}

// The finding's own panel of densities, with a mark at the chosen feature.
function Density({ list, chosen }) {
  return list.density && html`<${Panel} panel=${{ ...list.density, marks: chosen > 0 ? [[Math.log10(chosen), 'this feature']] : [] }} />`;
}

function List({ list, state, change }) {
  const [count, setCount] = useState(PAGE);
  const sort = SORTS[state.sort] ? state.sort : 'telling';
  const wanted = (state.find || '').toLowerCase();
  const found = useMemo(() => list.features.map((feature, place) => ({ ...feature, place }))
    .filter((f) => !wanted || String(f.id) === wanted || f.top.some((t) => t.toLowerCase().includes(wanted)) || f.example?.tokens.join('').toLowerCase().includes(wanted))
    .sort(SORTS[sort][1]), [list, sort, wanted]);
  const listed = new Set(list.features.map((f) => f.id));
  const unlisted = /^\d{1,9}$/.test(wanted) && !listed.has(Number(wanted)) && !(Number(wanted) >= list.total) ? Number(wanted) : null;
  const placed = list.places?.length > 1;
  const silent = list.features.length > 0 && list.features.every((f) => !f.top.length);
  return html`
    <div class="toolbar">
      <${Choice} name="sort" label="first" value=${sort} options=${Object.entries(SORTS).map(([key, [text]]) => [key, text])}
        onChange=${(key) => change({ sort: key === 'telling' ? null : key })} />
      <label class="prompt"><span>find</span><input type="search" value=${state.find || ''} placeholder="a word, or a feature’s number" onInput=${(event) => change({ find: event.target.value }, true)} /></label>
      <span class="num">${whole(found.length)} of ${whole(list.features.length)}${list.total > list.features.length ? ` listed, of ${whole(list.total)}` : ''}</span>
    </div>
    ${unlisted !== null && html`<p class="note">Feature ${unlisted} is not listed. <a href=${link('features', { ...state, feature: unlisted })}>Open feature ${unlisted}</a></p>`}
    ${!wanted && list.total > list.features.length && html`<p class="note">The most telling ones are listed; enter a number to open any other.</p>`}
    ${placed && html`<div class="where"><span>share per site</span><${PlaceKey} places=${list.places} /></div>`}
    ${silent && html`<p class="note">${silence(list)}</p>`}
    <ol class=${`features ${placed ? 'placed' : ''} ${silent ? 'silent' : ''}`}>${found.slice(0, count).map((f) => html`<li key=${f.id}><a href=${link('features', { ...state, feature: f.id })}>
      <b class="num">${f.id}</b>
      <span class="example">${f.example ? html`<${Around} example=${f.example} max=${f.max} />` : html`<i>never active</i>`}</span>
      ${!silent && html`<span class="says">${f.top.map((token, i) => html`<code key=${i}>${visible(token)}</code>`)}</span>`}
      ${placed && html`<${Shares} places=${list.places} shares=${f.shares} />`}
      <span class="num density">${percent(f.density, 2)}</span>
    </a></li>`)}</ol>
    ${found.length > count && html`<button class="quiet" onClick=${() => setCount(count + PAGE)}>Show ${Math.min(PAGE, found.length - count)} more</button>`}
    ${!found.length && unlisted === null && html`<p class="note">No listed feature’s example or logits hold “${state.find}”.${/^\d+$/.test(wanted) && list.total ? ` Features are numbered 0 to ${whole(list.total - 1)}.` : ''}</p>`}`;
}

// A dictionary outside the residual stream has no direct effect on the logits.
const silence = (list) => `No direct effect on the logits: ${list.site} does not write to the residual stream.`;

function Logits({ feature, list }) {
  if (!(feature.max > 0)) return null;
  if (!feature.top_logits?.length && !feature.bottom_logits?.length) return html`<h3>Makes more likely</h3><p class="note">${silence(list)}</p>`;
  return html`<h3>Makes more likely</h3><${Ranked} pairs=${feature.top_logits || []} form="hundredths" label="tokens it makes more likely" />
    <h3>Makes less likely</h3><${Ranked} pairs=${feature.bottom_logits || []} form="hundredths" label="tokens it makes less likely" />`;
}

function One({ feature, list, state }) {
  const groups = [...new Map(feature.examples.map((e) => [String(e.quantile), e.quantile])).values()].sort((a, b) => b - a);
  return html`
    <nav class="crumbs" aria-label="Features"><a href=${link('features', { ...state, feature: null })}>← all features</a></nav>
    <div class="feature">
      <section class="examples">
        <h2>Feature <span class="num">${feature.id}</span></h2>
        <p class="lead">${feature.max > 0 ? `Active on ${percent(feature.density, 2)} of tokens, at most ${number(feature.max)}.` : 'It was never active.'}${feature.tokens_seen ? html` <small>Read over ${whole(feature.tokens_seen)} held-out tokens.</small>` : ''}</p>
        ${groups.map((q) => html`<div key=${q}><h3>${q >= 1 ? 'Strongest' : `Around the ${Math.round(q * 100)}th percentile`}</h3>
          <ul>${feature.examples.filter((e) => String(e.quantile) === String(q)).map((e, i) => html`<li key=${i}><${Lit} tokens=${e.tokens} values=${e.acts} high=${feature.max} />
            <span class="num">${number(Math.max(...e.acts))}</span></li>`)}</ul></div>`)}
      </section>
      <aside>
        ${list.places?.length > 1 && feature.shares && html`<h3>Share per site</h3><${Shares} places=${list.places} shares=${feature.shares} named=${true} />`}
        <${Logits} feature=${feature} list=${list} />
        <h3>Neighbours</h3><ul class="neighbours">${(feature.neighbours || []).map(([id, cosine]) => html`<li key=${id}>
          <a href=${link('features', { ...state, feature: id })}>${id}</a> <span class="num">${fixed(cosine, 2)}</span></li>`)}</ul>
        <${Density} list=${list} chosen=${feature.density} />
      </aside>
    </div>`;
}

// One dictionary: its figures, and its features if they have been computed.
function Dictionary({ run, entry, list, found, state, change, tools }) {
  const measured = found?.data;
  const name = (measured || list).dictionary;
  const [report, read] = [saeCommand('report', run, name), saeCommand('features', run, name)];
  return html`
    ${tools}
    <${Facts} list=${list} measured=${measured} />
    ${found ? html`<${Found} found=${{ ...found, figures: {} }} />`
      : html`${report && html`<${Command} command=${report}>Its effect on the model’s loss has not been measured yet:</>`}<${Density} list=${list} />`}
    ${list && !list.features.length && html`<p class="note">No feature is listed: each is active too rarely or too often to interpret.</p>`}
    ${list ? list.features.length > 0 && html`<${List} key=${entry.id} list=${list} state=${state} change=${change} />`
      : html`<${Command} command=${read}>Its features have not been computed yet:</>`}`;
}

function Shelf({ run, state, change }) {
  const shelf = dictionaries(run.findings);
  const entry = shelf.find((e) => e.id === state.finding) || shelf[0];
  const { value: list, error } = useGet(entry.features && `features/${encodeURIComponent(entry.features)}`);
  const { value: measured, error: unmeasured } = useGet(entry.measured ? `finding/dictionary/${encodeURIComponent(entry.measured)}` : null);
  const one = entry.features && state.feature !== undefined;
  const asked = one && list ? Number(state.feature) : null;
  const listed = asked !== null && list.features.some((f) => f.id === asked);
  // Features that are not listed are computed by the worker on the run's held-out text.
  const { value: feature, error: unknown } = useAnswer(asked === null ? null : `${entry.features}/${asked}`, () => (listed
    ? get(`features/${encodeURIComponent(entry.features)}/${asked}`, { run: run.about.name })
    : post('feature', { run: run.about.name, finding: entry.features, feature: asked })));
  const wrong = error || unmeasured || unknown;
  if (wrong) return html`<${Sentence} text=${wrong} /><p><a href=${link('features', { ...state, feature: null })}>← all features</a></p>`;
  if ((entry.features && !list) || (entry.measured && !measured)) return html`<p class="loading">Reading the features…</p>`;
  if (one) return feature ? html`<${One} feature=${feature} list=${list} state=${state} />` : html`<p class="loading">${listed ? 'Reading the feature…' : 'Computing the feature on the held-out text; the first one takes a while…'}</p>`;
  const choose = shelf.length > 1 && html`<${Select} label="dictionary" value=${entry.id} options=${shelf.map((e) => [e.id, `${e.of} · ${e.checkpoint || ''}`])} onChange=${(finding) => change({ finding })} />`;
  const unread = run.about.dictionaries.filter((name) => !shelf.some((e) => e.of === name));
  const tools = choose && html`<div class="toolbar">${choose}</div>`;
  return html`<${Dictionary} run=${run} entry=${entry} list=${list} found=${measured} state=${state} change=${change} tools=${tools} />
    ${unread.map((name) => html`<${Command} key=${name} command=${saeCommand('features', run, name)}>The features of ${name} have not been computed yet:</>`)}`;
}

export function Features({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  if (run.findings.some((finding) => ['features', 'dictionary'].includes(finding.instrument))) return html`<${Shelf} run=${run} state=${state} change=${change} />`;
  const [some] = run.about.dictionaries;
  return html`<${Empty} title="No feature yet" command=${featuresCommand(run)}>${some
    ? `The dictionary ${some} is trained, but its features have not been computed yet; they appear here automatically:`
    : `Features come from a sparse dictionary trained on a layer’s activations. ${run.about.checkpoints.length ? 'This run has none yet; the next command appears here when one is trained:' : 'It needs a checkpoint first:'}`}</>`;
}
