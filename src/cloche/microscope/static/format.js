// Numbers formatted for people.
const PREFIXES = [[1e18, 'E'], [1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']];
const none = (value) => value === null || value === undefined || Number.isNaN(value);
const minus = (text) => String(text).replace('-', '−');

export function fixed(value, digits = 3) { return none(value) ? '–' : minus(value.toFixed(digits)); }

// Four significant digits, six from 1,000 on; scientific notation for very small and very large numbers.
export function number(value) {
  if (none(value)) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size < 1e-3 || size >= 1e6) {
    const [digits, power] = value.toExponential(2).split('e');
    return minus(`${digits.replace(/\.?0+$/, '')}e${Number(power)}`);
  }
  return minus(Number(value.toPrecision(size >= 1000 ? 6 : 4)).toLocaleString('en-US', { maximumFractionDigits: 6 }));
}

export function whole(value) { return none(value) ? '–' : Math.round(value).toLocaleString('en-US'); }

export function short(value) {
  if (none(value)) return '–';
  for (const [size, letter] of PREFIXES) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${letter}`;
  }
  return String(Number(value.toPrecision(3)));
}

export function percent(value, digits = 1) {
  if (none(value)) return '–';
  const hundredths = value * 100;
  if (hundredths !== 0 && Math.abs(hundredths) < 0.01) return '<0.01 %';
  return `${hundredths.toFixed(hundredths !== 0 && Math.abs(hundredths) < 0.1 ? 2 : digits)} %`;
}

// A word of a command line, quoted if the shell would split or expand it.
export function quoted(word) { return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replace(/'/g, `'"'"'`)}'`; }

export function duration(seconds) {
  if (none(seconds)) return '–';
  const s = Math.round(seconds);
  const two = (n) => String(n).padStart(2, '0');
  if (s >= 3600) return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return `${Math.floor(s / 60)}:${two(s % 60)}`;
}

// A token with its spaces and control characters made visible; an empty token is ∅.
const SIGNS = { ' ': '·', '\n': '↵', '\t': '→', '\r': '␍' };
export const visible = (token) => token.replace(/[ \n\t\r]/g, (c) => SIGNS[c]) || '∅';

// Number formats of panels, and those that only the microscope's own tables have.
export const FORMS = { number, percent: (v) => percent(v), count: whole, token: number, short, duration, hundredths: (v) => fixed(v, 2), thousandths: (v) => fixed(v, 3) };
export function written(value, form = 'number') {
  if (typeof value === 'string') return value;
  return none(value) ? '' : FORMS[form](value);
}
