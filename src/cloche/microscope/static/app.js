// The shell: name and state of the run, and the views.
import { html, render, useEffect, useErrorBoundary } from './vendor/htm-preact.js';
import { Sentence } from './controls.js';
import { whole } from './format.js';
import { adoptedFrom } from './commands.js';
import { go, link, useRoute } from './route.js';
import { damages, open, stateOf, stepOf, useStore } from './store.js';
import { Curves } from './curves.js';
import { Growing } from './growing.js';
import { Health } from './health.js';
import { Lens } from './lens.js';
import { Features } from './features.js';
import { Findings } from './findings.js';

const VIEWS = {
  curves: ['Curves', Curves], growing: ['Growing up', Growing], health: ['Health', Health], lens: ['Logit lens', Lens], features: ['Features', Features],
  findings: ['Findings', Findings],
};

function Status({ store, run }) {
  if (!store.connected) return html`<span class="status lost">server gone; start it again with “cloche open”</span>`;
  const state = stateOf(run);
  const step = stepOf(run);
  return html`<span class=${'status ' + (state.live ? 'live' : '')}>${state.word}${step === undefined ? '' : html` · step <span class="num">${whole(step)}</span>`}</span>`;
}

// A view whose data have a wrong type or shape becomes a sentence; the other views keep working.
function Safe({ children }) {
  const [error, reset] = useErrorBoundary();
  useEffect(() => { if (error) reset(); }, [location.hash]);
  return error ? html`<${Sentence} text=${`This view cannot be drawn: a file of the run has values of a wrong type or shape (${error.message}). “cloche verify” lists what is damaged.`} />` : children;
}

// What opens first: the curves, which fill as a run trains; of a run that was trained elsewhere the first view with content.
function home(run) {
  const has = (...names) => run.findings.some((finding) => names.includes(finding.instrument));
  if (!adoptedFrom(run) || has('logit-lens') || !run.findings.length) return adoptedFrom(run) ? 'lens' : 'curves';
  return has('features', 'dictionary') ? 'features' : 'findings';
}

function App() {
  const store = useStore();
  const { view, state, change } = useRoute();
  useEffect(() => { open(); }, []);
  const run = store.runs[store.main];
  const first = run && !run.loading && !view ? home(run) : 'curves';
  useEffect(() => { if (first !== 'curves') go(first, state, true); }, [first]);
  const chosen = VIEWS[view] ? view : first;
  const [name, View] = VIEWS[chosen];
  useEffect(() => { if (run) document.title = `${name} · ${run.about.name} · cloche`; }, [name, run?.about.name]);
  if (!run) return html`<main><${Sentence} text=${store.error} />${!store.error && html`<p class="loading">Opening the run…</p>`}</main>`;
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById('main').focus(); }}>Skip to the view</a>
    <header class="top">
      <p class="brand"><img src="/static/icon.svg" alt="" width="22" height="22" />cloche</p>
      <h1>${run.about.name}</h1>
      <${Status} store=${store} run=${run} />
      ${run.about.question && html`<p class="question" title="The question of this run, from its recipe">${run.about.question}</p>`}
      ${run.about.report && html`<a class="report" href="/report">report</a>`}
      <nav aria-label="Views">${Object.entries(VIEWS).map(([key, [text]]) => html`<a key=${key} href=${link(key)} aria-current=${key === chosen ? 'page' : undefined}>${text}</a>`)}</nav>
    </header>
    <main id="main" tabindex="-1"><h2 class="hidden">${name}</h2><${Sentence} text=${store.error} />${damages(run).map((text) => html`<${Sentence} key=${text} text=${text} />`)}
      ${run.loading && chosen !== 'curves' ? html`<p class="loading">Reading the run…</p>` : html`<${Safe} key=${chosen}><${View} state=${state} change=${change} /></>`}</main>`;
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
