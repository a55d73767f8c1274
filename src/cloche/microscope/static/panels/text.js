// Plain text; line breaks are kept.
import { html } from '../vendor/htm-preact.js';

export const Text = ({ text }) => html`<p class="text">${text}</p>`;
