// Faults of the page that is shown, one sentence each: the rules of WCAG 2 that this app could break, and no sideways scrolling.
() => {
  const faults = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const called = (element) => `<${element.tagName.toLowerCase()} class="${element.getAttribute('class') || ''}"> ${(element.textContent || '').trim().slice(0, 30)}`;
  const fault = (rule, element) => faults.push(`${rule}: ${called(element)}`);
  const style = (element) => getComputedStyle(element);
  const ancestors = (element) => { const found = []; for (let e = element; e; e = e.parentElement) found.push(e); return found; };
  const drawn = (element) => element.checkVisibility() && !ancestors(element).some((e) => style(e).clipPath !== 'none');

  // Nothing is beyond the window but what a box of its own scrolls or cuts off.
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) faults.push(`the page is ${document.documentElement.scrollWidth} wide in a window of ${wide}`);
  for (const element of all('body *').filter(drawn)) {
    const box = element.getBoundingClientRect();
    const held = ancestors(element.parentElement).some((e) => e !== document.documentElement && e !== document.body && style(e).overflowX !== 'visible');
    if (box.width && box.height && !held && !element.closest('svg *') && (box.right > wide + 0.5 || box.left < -0.5)) fault('beyond the window', element);
    const scrolls = ['auto', 'scroll'].includes(style(element).overflowX) && element.scrollWidth > element.clientWidth + 1;
    if (scrolls && element.tabIndex < 0 && !element.querySelector('a, button, input, [tabindex="0"]')) fault('scrolls, but not by keyboard', element);
  }

  // Names beside an axis are told apart.
  for (const axis of all('.ticks, .bands').filter(drawn)) {
    const boxes = [...axis.children].filter(drawn).map((element) => [element, element.getBoundingClientRect()]);
    boxes.forEach(([element, a], i) => { if (boxes.slice(0, i).some(([, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)) fault('covers the name before it', element); });
  }

  // Contrast of text with what is behind it.
  const parts = (colour) => { const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => ancestors(element).reverse().reduce((below, e) => over(parts(style(e).backgroundColor), below), [255, 255, 255]);
  for (const element of all('body *')) {
    const words = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!words || !drawn(element) || element.matches(':disabled, title, noscript')) continue;
    const ground = behind(element);
    const opacity = ancestors(element).reduce((product, e) => product * Number(style(e).opacity), 1);
    const [r, g, b, a] = parts(element.closest('svg') ? style(element).fill : style(element).color);
    const [one, other] = [luminance(over([r, g, b, a * opacity], ground)), luminance(ground)];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style(element).fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style(element).fontWeight) >= 700);
    if (contrast < (large ? 3 : 4.5)) fault(`contrast ${contrast.toFixed(2)}`, element);
  }

  // Names of what is used and of what is drawn.
  const labelled = (element) => element.getAttribute('aria-label') || element.getAttribute('aria-labelledby') || element.labels?.[0]?.textContent.trim();
  for (const element of all('input, select, textarea')) if (!labelled(element)) fault('no label', element);
  for (const element of all('[role="img"], svg:not([aria-hidden]), canvas:not([role="img"] *), [role="region"], nav')) if (!labelled(element)) fault('no name', element);
  for (const element of all('img')) if (!element.hasAttribute('alt')) fault('no alternative text', element);
  for (const element of all('button, a[href]')) if (!element.textContent.trim() && !labelled(element)) fault('no text', element);

  // The outline: one h1, no level left out; one main; a title and a language; ids that are unique.
  const levels = all('h1, h2, h3, h4, h5, h6').map((element) => [Number(element.tagName[1]), element]);
  if (levels.filter(([level]) => level === 1).length !== 1) faults.push('not exactly one h1');
  levels.forEach(([level, element], i) => { if (level > (i ? levels[i - 1][0] : 0) + 1) fault(`h${level} skips a level`, element); });
  if (all('main').length !== 1) faults.push('not exactly one main');
  if (!document.title || !document.documentElement.lang) faults.push('no title or no language');
  const ids = all('[id]').map((element) => element.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) faults.push(`the id ${id} is used twice`);
  return faults;
}
