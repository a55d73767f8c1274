// Controls shared by the views.
import { html } from './vendor/htm-preact.js';
import { adoptedFrom, resumeCommand } from './commands.js';
import { visible } from './format.js';
import { Bars } from './panels/bars.js';

// Radio buttons in a row; the browser handles the arrow keys.
export function Choice({ name, label, value, options, onChange }) {
  return html`<fieldset class="choice">
    <legend>${label}</legend>
    ${options.map(([key, text]) => html`<label key=${key} class=${key === value ? 'on' : ''}>
      <input type="radio" name=${name} value=${key} checked=${key === value} onChange=${() => onChange(key)} />${text}
    </label>`)}
  </fieldset>`;
}

export function Select({ label, value, options, onChange }) {
  return html`<label class="select"><span>${label}</span>
    <select value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === value}>${text}</option>`)}
    </select>
  </label>`;
}

// An empty view: the reason, and the command to run.
export function Empty({ title, children, command }) {
  return html`<div class="empty">
    <h2>${title}</h2>
    <p>${children}</p>
    ${command && html`<pre tabindex="0" role="region" aria-label="command"><code>${command}</code></pre>`}
  </div>`;
}

// The same for a view of a log, which an adopted run does not have.
export function LogMissing({ run, title, has, children, command = resumeCommand(run) }) {
  const source = adoptedFrom(run);
  if (!source) return html`<${Empty} title=${title} command=${command}>${children}</>`;
  return html`<${Empty} title="Trained elsewhere" command=${resumeCommand(run)}>
    This run was adopted from ${source}: it was not trained here, so it has no ${has}. To continue training, start a run from it:</>`;
}

export function Sentence({ text }) {
  return text ? html`<p class="sentence" role="alert">${text}</p>` : null;
}

// Tokens with a value each.
export function Ranked({ pairs, form, label }) {
  return html`<${Bars} title=${label} rows=${pairs.map(([token]) => visible(token))} series=${[{ values: pairs.map(([, value]) => value) }]} form=${form} />`;
}
