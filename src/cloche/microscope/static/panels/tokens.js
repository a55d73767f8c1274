// Passages of text, their tokens highlighted by their values.
import { html } from '../vendor/htm-preact.js';
import { number, visible } from '../format.js';

// The tooltip of a token has its value.
export function Lit({ tokens, values, high }) {
  return html`<span class="tokens">${tokens.map((token, i) => {
    const strength = high > 0 ? Math.min(1, Math.max(0, values[i] / high)) : 0;
    const lit = strength > 0.02;
    return html`<span key=${i} class=${lit ? 'lit' : ''} style=${lit ? { '--lit': strength.toFixed(3) } : {}}
      title=${`${visible(token)}  ${number(values[i])}`}>${token.replace(/\n/g, '↵')}</span>`;
  })}</span>`;
}

export function Tokens({ passages, high }) {
  const most = high || Math.max(0, ...passages.flatMap((each) => each.values));
  return html`<ul class="passages">${passages.map((each, i) => html`<li key=${i}>${each.name && html`<b>${each.name}</b>`}
    <${Lit} tokens=${each.tokens} values=${each.values} high=${most} /><small>${each.note}</small></li>`)}</ul>`;
}
