// The state of the page as a URL: #/view?key=value. All state of the views is in it, so links can be shared and "back" works.
import { useEffect, useState } from './vendor/htm-preact.js';

export function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?');
  return { view: path, state: Object.fromEntries(new URLSearchParams(query)) };
}

// Keys set to null, undefined or '' are removed from the URL: defaults are not written.
export function link(view, state = {}) {
  const kept = Object.entries(state).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const query = new URLSearchParams(kept.map(([key, value]) => [key, String(value)])).toString();
  return `#/${view}${query ? '?' + query : ''}`;
}

// `replace` for dragging and hovering, which should not fill the history.
export function go(view, state, replace = false) {
  const url = link(view, state);
  if (url === location.hash) return;
  if (replace) history.replaceState(null, '', url);
  else history.pushState(null, '', url);
  dispatchEvent(new Event('routed'));
}

export function useRoute() {
  const [route, set] = useState(parse(location.hash));
  useEffect(() => {
    const update = () => set(parse(location.hash));
    const names = ['hashchange', 'popstate', 'routed'];
    names.forEach((name) => addEventListener(name, update));
    return () => names.forEach((name) => removeEventListener(name, update));
  }, []);
  const change = (changes, replace = false) => {
    const now = parse(location.hash);
    go(now.view || 'curves', { ...now.state, ...changes }, replace);
  };
  return { ...route, change };
}
