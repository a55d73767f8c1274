// Growing up: continuations of the same prompts and predictions of the next token during training.
import { html } from './vendor/htm-preact.js';
import { resumeCommand } from './commands.js';
import { Choice, LogMissing, Ranked } from './controls.js';
import { percent, visible, whole } from './format.js';
import { Painted } from './panels/heatmap.js';
import { Legend } from './panels/legend.js';
import { useStore } from './store.js';

const ROWS = 14;

// The tokens that reached the highest probabilities, ordered by the step of their peak.
function expectations(records) {
  const best = new Map();
  records.forEach((record, i) => (record.next || []).forEach(([token, p]) => {
    if (p > (best.get(token)?.p ?? 0)) best.set(token, { p, i });
  }));
  const kept = [...best.entries()].sort((a, b) => b[1].p - a[1].p).slice(0, ROWS);
  kept.sort((a, b) => b[1].i - a[1].i);
  const tables = records.map((record) => new Map(record.next || []));
  return { tokens: kept.map(([token]) => token), values: kept.map(([token]) => tables.map((t) => t.get(token) ?? 0)) };
}

export function Growing({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  const prompts = [...new Set(run.samples.map((record) => record.prompt))];
  if (!prompts.length) {
    const silent = /^samples\s*=\s*0\b|^prompts\s*=\s*\[\s*\]/m.test(run.about.recipe);
    const fill = silent ? resumeCommand(run, 'evaluate.samples=8') : resumeCommand(run);
    return html`<${LogMissing} run=${run} title="No sample yet" has="samples from its training" command=${fill}>${silent
      ? 'The recipe of this run asks for no samples. Resume it with samples, and they appear here automatically:'
      : 'During training, the run writes a continuation of each of its prompts at intervals; the first appears here automatically. If the run is not training, resume it:'}</>`;
  }
  const chosen = Math.min(Math.max(0, Number(state.prompt) || 0), prompts.length - 1);
  const records = run.samples.filter((record) => record.prompt === prompts[chosen]);
  const steps = records.map((record) => record.step);
  const asked = state.step === undefined ? -1 : steps.findLastIndex((step) => step <= Number(state.step));
  const now = asked < 0 ? records.length - 1 : asked;
  const { tokens, values } = expectations(records);
  const scale = { min: 0.001, max: Math.max(0.01, ...values.flat()), log: true };
  const read = (p) => (p === 0 ? 'not among the ten most likely' : percent(p));
  const pick = (i, replace) => change({ step: i === records.length - 1 ? null : steps[i] }, replace);
  return html`
    <div class="toolbar">
      <${Choice} name="prompt" label="prompt" value=${String(chosen)} options=${prompts.map((prompt, i) => [String(i), visible(prompt)])}
        onChange=${(i) => change({ prompt: i === '0' ? null : i })} />
    </div>
    <div class="growing">
      <section aria-label="Continuations" class="paper">
        <label class="steps"><span>step <b class="num">${whole(steps[now])}</b></span>
          <input type="range" min="0" max=${records.length - 1} value=${now} aria-label="step of the sample" aria-valuetext=${`step ${steps[now]}`}
            onInput=${(event) => pick(Number(event.target.value), true)} /></label>
        <blockquote class="sample"><span class="given">${prompts[chosen]}</span><span>${records[now].text}</span></blockquote>
      </section>
      <section aria-label="Next token">
        <h3>Predicted next token <small>at step ${whole(steps[now])}</small></h3>
        <${Ranked} pairs=${records[now].next || []} form="percent" label="the most likely next tokens" />
      </section>
    </div>
    ${tokens.length > 0 && html`<section class="panel">
      <header><h3>Predictions over training</h3><${Legend} scale=${scale} format=${percent} /></header>
      <p class="note">The probability of each token right after the prompt: one row per token, one column per sample. Click a column to read that step.</p>
      <${Painted} title="Probability of the next token by step" summary=${`${tokens.length} tokens, ${steps.length} samples.`} version=${`${run.version}/${chosen}`}
        rows=${tokens.map((token) => ({ label: visible(token), name: visible(token) }))} columns=${steps} values=${values}
        scale=${scale} format=${read} pinned=${now} onPick=${(i) => pick(i, false)} rowHeight=${20} />
    </section>`}
    <section class="history" aria-label="All samples of this prompt">
      <h3>All samples</h3>
      <ol reversed>${records.map((record, i) => [record, i]).reverse().slice(0, 200).map(([record, i]) => html`<li key=${i} class=${i === now ? 'on' : ''}>
        <button onClick=${() => pick(i, false)} aria-current=${i === now ? 'step' : undefined}><span class="num">${whole(record.step)}</span></button>
        <p class="sample"><span class="given">${record.prompt}</span><span>${record.text}</span></p>
      </li>`)}</ol>
    </section>`;
}
