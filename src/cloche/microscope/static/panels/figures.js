// Named figures in large print.
import { html } from '../vendor/htm-preact.js';

export const Figures = ({ pairs }) => html`<dl class="figures">${pairs.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
