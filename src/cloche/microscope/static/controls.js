// Controls shared by the views.
import { html } from './vendor/htm-preact.js';
import { visible } from './format.js';

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

export function Sentence({ text }) {
  return text ? html`<p class="sentence" role="alert">${text}</p>` : null;
}

// Ranked tokens as bars; the largest has full width.
export function Bars({ pairs, format, label, tone = '' }) {
  const most = Math.max(...pairs.map(([, value]) => Math.abs(value)), 1e-12);
  return html`<ol class=${'bars ' + tone} aria-label=${label}>
    ${pairs.map(([token, value], i) => html`<li key=${i}>
      <code>${visible(token)}</code>
      <i><b style=${{ width: `${(100 * Math.abs(value)) / most}%` }}></b></i>
      <span>${format(value)}</span>
    </li>`)}
  </ol>`;
}
