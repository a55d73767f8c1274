// Findings of any instrument, ours or a third party's, drawn from their panels.
import { html } from './vendor/htm-preact.js';
import { Choice, Empty, Select, Sentence } from './controls.js';
import { Found } from './panels/panel.js';
import { useGet, useStore } from './store.js';
import { quoted } from './format.js';

const when = (head) => [head.of === head.id ? '' : head.of, head.checkpoint, (head.created || '').slice(0, 16).replace('T', ' ')].filter(Boolean).join(' · ');

export function Findings({ state, change }) {
  const store = useStore();
  const run = store.runs[store.main];
  const instruments = [...new Set(run.findings.map((head) => head.instrument))].sort();
  const name = instruments.includes(state.of) ? state.of : instruments[0];
  const heads = run.findings.filter((head) => head.instrument === name);
  const head = heads.find((each) => each.id === state.finding) || heads[0];
  const { value, error } = useGet(head && `finding/${encodeURIComponent(name)}/${encodeURIComponent(head.id)}`);
  if (!head) return html`<${Empty} title="No finding yet" command=${`cloche sae train ${quoted(run.about.path)}`}>Findings of instruments at a checkpoint of this run appear here automatically. Training a sparse dictionary is a start:</>`;
  return html`<div class="toolbar">
      ${instruments.length > 1 && html`<${Choice} name="of" label="instrument" value=${name} options=${instruments.map((each) => [each, each.replace(/-/g, ' ')])} onChange=${(of) => change({ of, finding: null })} />`}
      ${heads.length > 1 && html`<${Select} label="finding" value=${head.id} options=${heads.map((each) => [each.id, when(each)])} onChange=${(finding) => change({ of: name, finding })} />`}</div>
    <p class="lead">${head.summary} <small>${head.checkpoint}</small></p>
    <${Sentence} text=${error} />
    ${value ? html`<${Found} found=${value} />` : !error && html`<p class="loading">Reading the finding…</p>`}`;
}
