// One instrument's findings: which of them is shown, and what it holds.
import { html } from './vendor/htm-preact.js';
import { Select, Sentence } from './controls.js';
import { useGet } from './store.js';

// The finding of that id, or else the newest. -> {heads, head, value, error}; value is null while it is read.
export function useFinding(run, instrument, wanted) {
  const heads = run.findings.filter((finding) => finding.instrument === instrument);
  const head = heads.find((finding) => finding.id === wanted) || heads[0];
  return { heads, head, ...useGet(head ? `finding/${instrument}/${encodeURIComponent(head.id)}` : null) };
}

export function Which({ heads, head, onChange }) {
  if (heads.length < 2) return null;
  return html`<${Select} label="finding" value=${head.id} options=${heads.map((f) => [f.id, `${f.checkpoint} · ${(f.created || '').slice(0, 16).replace('T', ' ')}`])} onChange=${onChange} />`;
}

export function Waiting({ error }) {
  return error ? html`<${Sentence} text=${error} />` : html`<p class="loading">Reading the finding…</p>`;
}
