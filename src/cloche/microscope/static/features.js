// Features: the directions a sparse dictionary found, when they light up, and what they push the model to say.
import { html, useMemo, useState } from './vendor/htm-preact.js';
import { Bars, Choice, Empty, Select, Sentence, visible } from './controls.js';
import { Density } from './density.js';
import { featuresCommand, saeCommand } from './commands.js';
import { Command, Facts, Measured, dictionaries } from './dictionary.js';
import { fixed, number, oneIn, percent, whole } from './format.js';
import { PlaceKey, Shares } from './measures.js';
import { Probing } from './probing.js';
import { link } from './route.js';
import { get, post, useAnswer, useGet, useStore } from './store.js';

const PAGE = 60;
const SORTS = {
  telling: ['most telling', (a, b) => a.place - b.place],
  common: ['most common', (a, b) => b.density - a.density],
  rare: ['rarest', (a, b) => a.density - b.density],
  strong: ['strongest', (a, b) => b.max - a.max],
};

// Tokens lit by how strongly the feature answered; the read-out of one is its title and, for screen readers, its label.
export function Tokens({ tokens, acts, max }) {
  return html`<span class="tokens">${tokens.map((token, i) => {
    const strength = max > 0 ? Math.min(1, Math.max(0, acts[i] / max)) : 0;
    const lit = strength > 0.02;
    return html`<span key=${i} class=${lit ? 'lit' : ''} style=${lit ? { '--lit': strength.toFixed(3) } : {}}
      title=${`${visible(token)}  ${number(acts[i])}`}>${token.replace(/\n/g, '↵')}</span>`;
  })}</span>`;
}

// An example as in a concordance: all peaks stand in one column, so that a glance down the list compares them.
function Around({ example, max }) {
  const { tokens, acts, peak } = example;
  const part = (from, to) => html`<${Tokens} tokens=${tokens.slice(from, to)} acts=${acts.slice(from, to)} max=${max} />`;
  return html`<span class="around"><span class="before">${part(0, peak)}</span><span class="after">${part(peak)}</span></span>`;
}

function Histogram({ histogram, chosen }) {
  if (!histogram?.counts?.length) return null;
  const { edges, counts } = histogram;
  const most = Math.max(...counts, 1);
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const place = (share) => Math.min(100, Math.max(0, ((Math.log10(Math.max(share, 1e-12)) - low) / (high - low)) * 100));
  const total = counts.reduce((a, b) => a + b, 0);
  return html`<figure class="histogram">
    <figcaption><h3>How often features fire</h3></figcaption>
    <div class="bins" role="img" aria-label=${`Density of ${total} features, from ${oneIn(10 ** low)} tokens to ${oneIn(10 ** high)}; the fullest bin holds ${most}.`}>${counts.map((count, i) => html`<i key=${i} title=${`${count} features, ${percent(10 ** edges[i])} to ${percent(10 ** edges[i + 1])} of tokens`}><b style=${{ height: `${(100 * count) / most}%` }}></b></i>`)}
      ${chosen !== undefined && html`<em style=${{ left: `${place(chosen)}%` }} title="this feature"></em>`}</div>
    <p class="axis"><span>${oneIn(10 ** low)} tokens</span><span>${oneIn(10 ** high)}</span></p>
  </figure>`;
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
    ${unlisted !== null && html`<p class="note">Feature ${unlisted} is not listed. <a href=${link('features', { ...state, feature: unlisted })}>Read feature ${unlisted}</a></p>`}
    ${!wanted && list.total > list.features.length && html`<p class="note">The most telling ones are listed; any other opens by its number.</p>`}
    ${placed && html`<div class="where"><span>lives in</span><${PlaceKey} places=${list.places} /></div>`}
    ${silent && html`<p class="note">${silence(list)}</p>`}
    <ol class=${`features ${placed ? 'placed' : ''} ${silent ? 'silent' : ''}`}>${found.slice(0, count).map((f) => html`<li key=${f.id}><a href=${link('features', { ...state, feature: f.id })}>
      <b class="num">${f.id}</b>
      <span class="example">${f.example ? html`<${Around} example=${f.example} max=${f.max} />` : html`<i>never fired</i>`}</span>
      ${!silent && html`<span class="says">${f.top.map((token, i) => html`<code key=${i}>${visible(token)}</code>`)}</span>`}
      ${placed && html`<${Shares} places=${list.places} shares=${f.shares} />`}
      <span class="num density">${percent(f.density, 2)}</span>
    </a></li>`)}</ol>
    ${found.length > count && html`<button class="quiet" onClick=${() => setCount(count + PAGE)}>Show ${Math.min(PAGE, found.length - count)} more</button>`}
    ${!found.length && unlisted === null && html`<p class="note">No listed feature’s example or logits hold “${state.find}”.${/^\d+$/.test(wanted) && list.total ? ` Features are numbered 0 to ${whole(list.total - 1)}.` : ''}</p>`}`;
}

// A dictionary outside the residual stream adds nothing to the logits directly, so there is nothing to draw.
const silence = (list) => `No direct effect on the logits: ${list.site} writes to no place of the residual stream.`;

function Logits({ feature, list }) {
  if (!(feature.max > 0)) return null;
  if (!feature.top_logits?.length && !feature.bottom_logits?.length) return html`<h3>What it makes likelier</h3><p class="note">${silence(list)}</p>`;
  return html`<h3>Makes likelier</h3><${Bars} pairs=${feature.top_logits || []} format=${(v) => fixed(v, 2)} label="tokens it makes likelier" />
    <h3>Makes unlikelier</h3><${Bars} pairs=${feature.bottom_logits || []} format=${(v) => fixed(v, 2)} label="tokens it makes unlikelier" tone="cold" />`;
}

function One({ feature, list, state }) {
  const groups = [...new Map(feature.examples.map((e) => [String(e.quantile), e.quantile])).values()].sort((a, b) => b - a);
  return html`
    <nav class="crumbs" aria-label="Features"><a href=${link('features', { ...state, feature: null })}>← all features</a></nav>
    <div class="feature">
      <section class="examples">
        <h2>Feature <span class="num">${feature.id}</span></h2>
        <p class="lead">${feature.max > 0 ? `Fires on ${percent(feature.density, 2)} of tokens, at most ${number(feature.max)}.` : 'It never fired.'}${feature.tokens_seen ? html` <small>Read over ${whole(feature.tokens_seen)} held-out tokens.</small>` : ''}</p>
        ${groups.map((q) => html`<div key=${q}><h3>${q >= 1 ? 'Strongest' : `Around the ${Math.round(q * 100)}th percentile`}</h3>
          <ul>${feature.examples.filter((e) => String(e.quantile) === String(q)).map((e, i) => html`<li key=${i}><${Tokens} tokens=${e.tokens} acts=${e.acts} max=${feature.max} />
            <span class="num">${number(Math.max(...e.acts))}</span></li>`)}</ul></div>`)}
      </section>
      <aside>
        ${list.places?.length > 1 && feature.shares && html`<h3>Lives in</h3><${Shares} places=${list.places} shares=${feature.shares} named=${true} />`}
        <${Logits} feature=${feature} list=${list} />
        <h3>Neighbours</h3><ul class="neighbours">${(feature.neighbours || []).map(([id, cosine]) => html`<li key=${id}>
          <a href=${link('features', { ...state, feature: id })}>${id}</a> <span class="num">${fixed(cosine, 2)}</span></li>`)}</ul>
        <${Histogram} histogram=${list.density_histogram} chosen=${feature.density} />
      </aside>
    </div>`;
}

// One dictionary: its figures, and its features where they were read.
function Dictionary({ run, entry, list, measured, state, change, tools }) {
  const name = (measured || list).dictionary;
  const histogram = (list || measured).density_histogram;
  const [report, read] = [saeCommand('report', run, name), saeCommand('features', run, name)];
  const drawn = html`<${Histogram} histogram=${histogram} />`;
  return html`
    ${tools}
    ${measured ? html`<${Facts} list=${list} measured=${measured} /><div class="measured"><${Measured} data=${measured} />${drawn}</div>`
      : html`<div class="overview"><div><${Facts} list=${list} />${report && html`<${Command} command=${report}>What it costs the model is not measured yet:</>`}</div>${drawn}</div>`}
    ${list && !list.features.length && html`<p class="note">No feature is told of: each fires too seldom or too often to say what it is about.</p>`}
    ${list ? list.features.length > 0 && html`<${List} key=${entry.id} list=${list} state=${state} change=${change} />`
      : html`<${Command} command=${read}>Its features are not read yet:</>`}`;
}

function Shelf({ run, state, change, tabs }) {
  const shelf = dictionaries(run.findings);
  const entry = shelf.find((e) => e.id === state.finding) || shelf[0];
  const { value: list, error } = useGet(entry.features && `features/${encodeURIComponent(entry.features)}`);
  const { value: measured, error: unmeasured } = useGet(entry.measured ? `finding/dictionary/${encodeURIComponent(entry.measured)}` : null);
  const one = entry.features && state.feature !== undefined;
  const asked = one && list ? Number(state.feature) : null;
  const listed = asked !== null && list.features.some((f) => f.id === asked);
  // What is not listed is read by the worker, over the run's held-out text.
  const { value: feature, error: unknown } = useAnswer(asked === null ? null : `${entry.features}/${asked}`, () => (listed
    ? get(`features/${encodeURIComponent(entry.features)}/${asked}`, { run: run.about.name })
    : post('feature', { run: run.about.name, finding: entry.features, feature: asked })));
  const wrong = error || unmeasured || unknown;
  if (wrong) return html`<${Sentence} text=${wrong} /><p><a href=${link('features', { ...state, feature: null })}>← all features</a></p>`;
  if ((entry.features && !list) || (entry.measured && !measured)) return html`<p class="loading">Reading the features…</p>`;
  if (one) return feature ? html`<${One} feature=${feature} list=${list} state=${state} />` : html`<p class="loading">${listed ? 'Reading the feature…' : 'Reading the feature over the held-out text; the first one that is not listed takes a while…'}</p>`;
  const choose = shelf.length > 1 && html`<${Select} label="dictionary" value=${entry.id} options=${shelf.map((e) => [e.id, `${e.of} · ${e.checkpoint || ''}`])} onChange=${(finding) => change({ finding })} />`;
  const unread = run.about.dictionaries.filter((name) => !shelf.some((e) => e.of === name));
  const tools = (tabs || choose) && html`<div class="toolbar">${tabs}${choose}</div>`;
  return html`<${Dictionary} run=${run} entry=${entry} list=${list} measured=${measured?.data} state=${state} change=${change} tools=${tools} />
    ${unread.map((name) => html`<${Command} key=${name} command=${saeCommand('features', run, name)}>The features of ${name} are not read yet:</>`)}`;
}

// What there is to see, each under a URL of its own: `show` names it.
const SHOWN = [
  ['dictionaries', Shelf, ['features', 'dictionary']],
  ['probing', Probing, ['sparse-probing']],
  ['neurons', Density, ['activation-density']],
];

export function Features({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  const there = SHOWN.filter(([, , instruments]) => run.findings.some((finding) => instruments.includes(finding.instrument)));
  if (!there.length) {
    const [some] = run.about.dictionaries;
    return html`<${Empty} title="No feature yet" command=${featuresCommand(run)}>${some
      ? `The dictionary ${some} is trained, and its features are not read yet; they appear here by themselves:`
      : `Features come from a sparse dictionary trained on a layer’s activations. ${run.about.checkpoints.length ? 'This run has none yet; the next step appears here when it is trained:' : 'It needs a checkpoint first:'}`}</>`;
  }
  const [name, View] = there.find(([key]) => key === state.show) || there[0];
  const tabs = there.length > 1 && html`<${Choice} name="show" label="show" value=${name} options=${there.map(([key]) => [key, key])} onChange=${(key) => change({ show: key === there[0][0] ? null : key })} />`;
  return html`<${View} key=${name} run=${run} state=${state} change=${change} tabs=${tabs} />`;
}
