// The colour scale of all heat maps, computed in OKLCH: lightness increases evenly, so that the order is visible with colour
// blindness and in greyscale; the hue goes from violet over green to yellow.
// OKLab to sRGB: Björn Ottosson, "A perceptual color space for image processing", 2020.
const STEPS = 256;

export function oklch(lightness, chroma, degrees) {
  const hue = (degrees * Math.PI) / 180;
  const a = chroma * Math.cos(hue);
  const b = chroma * Math.sin(hue);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((x) => {
    const v = x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(1, Math.max(0, v)));
  });
}

// The chroma stays inside sRGB everywhere: clipping would make an edge that the data do not have.
const at = (t) => oklch(0.27 + 0.64 * t, 0.12 - 0.03 * Math.sin(Math.PI * t), 300 - 195 * t);
const TABLE = Array.from({ length: STEPS }, (_, i) => at(i / (STEPS - 1)));

export const rgb = (t) => TABLE[Math.round(Math.min(1, Math.max(0, t)) * (STEPS - 1))];
export const colour = (t) => `rgb(${rgb(t).join(' ')})`;
// 0.447 is where black and white have equal contrast, at least 4.45; each has more on its side.
export const inkOn = (t) => (t > 0.447 ? '#000' : '#fff');

// Position of a value between the ends, 0 to 1: logarithmic if `log`, by square roots if `root`; null for null. `min` may be the
// larger end.
export function share(value, { min, max, log, root }) {
  if (value === null || value === undefined) return null;
  const f = log ? (v) => Math.log10(Math.max(v, 1e-12)) : (v) => v;
  const width = f(max) - f(min);
  const t = width ? Math.min(1, Math.max(0, (f(value) - f(min)) / width)) : 0.5;
  return root ? Math.sqrt(t) : t;
}

// A scale that does not exaggerate: it starts at zero, or is symmetric about zero if there are negative values; a logarithmic
// one runs between powers of ten. `low` and `high` override the ends. kind: linear, log or root.
export function scaleOf(values, kind = 'linear', low = null, high = null) {
  const log = kind === 'log';
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    if (value === null || value === undefined || (log && value <= 0)) continue;
    if (value < least) least = value;
    if (value > most) most = value;
  }
  if (least > most) [least, most] = [log ? 0.1 : 0, 1];
  const reach = Math.max(Math.abs(least), Math.abs(most)) || 1;
  const bottom = log ? 10 ** Math.floor(Math.log10(least)) : least < 0 ? -reach : 0;
  const top = log ? Math.max(10 ** Math.ceil(Math.log10(most)), 10 * bottom) : reach;
  return { min: low ?? bottom, max: high ?? top, log, root: kind === 'root' };
}
