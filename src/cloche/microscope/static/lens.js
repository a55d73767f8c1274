// The logit lens: what each layer would predict at each position if it were the last (nostalgebraist, 2020).
import { html, useRef, useState } from './vendor/htm-preact.js';
import { resumeCommand } from './commands.js';
import { Choice, Empty, Ranked, Select, Sentence } from './controls.js';
import { fixed, percent, visible, whole } from './format.js';
import { Cells } from './panels/heatmap.js';
import { Legend } from './panels/legend.js';
import { get, last, post, useAnswer, useStore } from './store.js';

// What cells are coloured by, and what the readout shows.
// Square roots: a small model is rarely certain, and 25 % should not look like 0.
const SHARES = { min: 0, max: 1, root: true };
const MODES = {
  top: { label: 'top token', value: (d, l, p) => d.top[l][p][0][1], scale: () => SHARES, show: percent, note: 'The most likely token of each layer; lighter is more probable.' },
  probability: { label: 'probability', value: (d, l, p) => truth(d, l, p), scale: () => SHARES, show: percent,
    note: 'The probability of the actual next token, if it is among the ten most likely.' },
  rank: { label: 'rank', value: (d, l, p) => d.rank[l][p], scale: (d) => ({ min: Math.max(worst(d), 10), max: 1, log: true }), show: whole,
    note: 'The rank of the actual next token among all tokens: 1 is the most likely.' },
  entropy: { label: 'entropy', value: (d, l, p) => d.entropy[l][p], scale: (d) => ({ min: 0, max: Math.max(...d.entropy.flat(), 0.01) }), show: (v) => fixed(v, 2),
    note: 'The entropy of each layer’s prediction, in nats.' },
};

const worst = (d) => Math.max(...d.rank.flat().filter((r) => r !== null && r !== undefined), 1);
function truth(d, l, p) {
  const next = d.tokens[p + 1];
  if (next === undefined) return null;
  const found = d.top[l][p].find(([token]) => token === next);
  return found ? found[1] : 0;
}

const brief = (text) => (text.length > 28 ? `${text.slice(0, 27)}…` : text);

function Grid({ data, mode, at, onAt, onPin }) {
  const { value, scale, show, label } = MODES[mode];
  const count = data.layers.length;
  const layer = (r) => count - 1 - r; // the last one on top
  const rows = data.layers.map((_, r) => data.tokens.map((_, p) => value(data, layer(r), p)));
  const text = (v, r, p) => (mode === 'top' ? visible(data.top[layer(r)][p][0][0]) : v === null ? '·' : show(v));
  const tip = (v, r, p) => `${data.layers[layer(r)]}, after ${visible(data.tokens[p])}: ${visible(data.top[layer(r)][p][0][0])}, ${label} ${v === null ? 'unknown' : show(v)}`;
  const each = (draw) => rows.map((row, r) => row.map((v, p) => draw(v, r, p)));
  const back = (cell) => cell && { l: layer(cell.r), p: cell.c };
  return html`<${Cells} title="Logit lens: layers as rows, the last on top; positions as columns" rows=${data.layers.map((_, r) => data.layers[layer(r)])} columns=${data.tokens}
    head=${{ name: 'actual next', texts: data.tokens.map((_, p) => (data.tokens[p + 1] === undefined ? '?' : visible(data.tokens[p + 1]))) }}
    texts=${each(text)} tips=${each(tip)} values=${rows} scale=${scale(data)} at=${{ r: layer(at.l), c: at.p }} keyOf=${(r, c) => `${layer(r)}.${c}`}
    onAt=${(cell) => onAt(back(cell))} onPick=${(cell) => onPin(back(cell))} />`;
}

// Notes of the instrument, such as that the prompt is longer than the model's training length.
const notesOf = (found) => [found.notes || found.data.notes || []].flat().map(String);

function Shown({ found, state, change }) {
  const data = found.data;
  const [hover, setHover] = useState(null);
  const mode = MODES[state.mode] ? state.mode : 'top';
  const [l, p] = (state.at || '').split('.').map(Number);
  const kept = state.at && data.layers[l] !== undefined && data.tokens[p] !== undefined;
  const pinned = kept ? { l, p } : { l: data.layers.length - 1, p: data.tokens.length - 1 };
  const at = hover && data.top[hover.l]?.[hover.p] ? hover : pinned;
  const rank = data.rank[at.l][at.p];
  const next = data.tokens[at.p + 1];
  return html`
    <div class="toolbar"><${Choice} name="mode" label="colour" value=${mode} options=${Object.entries(MODES).map(([key, m]) => [key, m.label])}
      onChange=${(key) => change({ mode: key === 'top' ? null : key })} /><${Legend} scale=${MODES[mode].scale(data)} format=${MODES[mode].show} /></div>
    <p class="note">${MODES[mode].note}</p>
    <div class="lens">
      <${Grid} data=${data} mode=${mode} at=${at} onAt=${setHover} onPin=${(cell) => change({ at: `${cell.l}.${cell.p}` }, true)} />
      <aside aria-live="polite">
        <h3>${data.layers[at.l]} <small>after</small> <code>${visible(data.tokens[at.p])}</code></h3>
        <${Ranked} pairs=${data.top[at.l][at.p]} form="percent" label="the ten most likely next tokens" />
        <p class="note">Entropy ${fixed(data.entropy[at.l][at.p], 2)} nats.${next === undefined ? '' : html` Actual next token: <code>${visible(next)}</code>, rank ${whole(rank)}.`}</p>
      </aside>
    </div>
    <p class="summary">${found.summary} <small>${found.checkpoint}</small></p>
    ${notesOf(found).map((note) => html`<p class="note" key=${note}>${note}</p>`)}`;
}

export function Lens({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  const checkpoints = run.about.checkpoints;
  const stored = run.findings.filter((finding) => finding.instrument === 'logit-lens');
  // Text that is being typed is kept across redraws: records keep arriving meanwhile.
  const [draft, setDraft] = useState({});
  const [again, setAgain] = useState(0);
  const newest = last(checkpoints);
  const ident = state.finding || stored[0]?.id;
  const asked = state.prompt ? { checkpoint: state.checkpoint || newest, prompt: state.prompt } : ident && { ident };
  const { value, error } = useAnswer(asked && JSON.stringify([asked, again]), () => (state.prompt ? post('lens', asked) : get(`finding/logit-lens/${encodeURIComponent(ident)}`)));
  const before = useRef(null); // shown while the next one is computed
  if (value || error || !asked) before.current = value;
  const found = before.current;
  const busy = Boolean(asked) && !value && !error;

  const prompt = draft.prompt ?? (state.prompt || found?.data.prompt || (stored.length ? '' : run.about.prompts[0]) || '');
  const checkpoint = draft.checkpoint ?? (state.checkpoint || found?.checkpoint || newest);
  const submit = (event) => {
    event.preventDefault();
    if (!prompt) return;
    setDraft({});
    if (prompt === state.prompt && checkpoint === (state.checkpoint || newest)) setAgain(again + 1);
    else change({ prompt, checkpoint, finding: null, at: null });
  };
  const onEnter = (event) => { if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); event.target.form.requestSubmit(); } };
  return html`
    <form class="toolbar ask" onSubmit=${submit}>
      <label class="prompt"><span>prompt</span><textarea name="prompt" rows=${Math.min(8, prompt.split('\n').length)} value=${prompt} placeholder=${run.about.prompts[0] || 'some text'} spellcheck="false"
        aria-description="Enter runs the lens, Shift and Enter begins a new line" onKeyDown=${onEnter} onFocus=${(event) => setDraft({ ...draft, prompt: event.target.value })}
        onInput=${(event) => setDraft({ ...draft, prompt: event.target.value })}></textarea></label>
      <label class="select"><span>checkpoint</span><select name="checkpoint" disabled=${!checkpoints.length} onChange=${(event) => setDraft({ ...draft, checkpoint: event.target.value })}>
        ${checkpoints.map((name) => html`<option key=${name} value=${name} selected=${name === checkpoint}>${name}</option>`)}
      </select></label>
      <button type="submit" disabled=${!checkpoints.length || busy}>${busy ? 'Reading…' : 'Run the lens'}</button>
      ${stored.length > 0 && html`<${Select} label="or open" value=${state.prompt ? '' : state.finding || stored[0].id}
        options=${[...(state.prompt ? [['', 'a stored lens']] : []), ...stored.map((finding) => [finding.id, `${brief(finding.of)} · ${finding.checkpoint || ''}`])]}
        onChange=${(id) => { setDraft({}); if (id) change({ finding: id, prompt: null, checkpoint: null, at: null }); }} />`}
    </form>
    <${Sentence} text=${error} />
    ${found && html`<${Shown} found=${found} state=${state} change=${change} />`}
    ${!found && !error && !busy && (checkpoints.length
      ? html`<${Empty} title="No prompt yet">Run the lens on the prompt above, or on one of your own: each layer then shows what it would predict if it were the last.</>`
      : html`<${Empty} title="No checkpoint yet" command=${resumeCommand(run)}>The lens needs a checkpoint; the run’s first one appears here automatically. If the run is not training, resume it:</>`)}
    ${busy && !found && html`<p class="loading">Loading the model in its own process; the first result takes a few seconds…</p>`}`;
}
