// A line chart: uPlot with our fonts and colours, event marks, a readout, arrow keys and a description for screen readers.
import uPlot from './vendor/uPlot.js';
import { html, useEffect, useRef } from './vendor/htm-preact.js';
import { number } from './format.js';

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const together = uPlot.sync('microscope');
const dark = matchMedia('(prefers-color-scheme: dark)');
const FONT = '11px "Helvetica Neue", Arial, sans-serif';

// Series may have different x values; uPlot wants one x column. If all share one array, no join is needed.
function table(series) {
  if (series.every((s) => s.x === series[0].x || s.x.length === 0)) {
    return [series[0].x, ...series.map((s) => (s.x.length ? s.y : series[0].x.map(() => null)))];
  }
  return uPlot.join(series.map((s) => [s.x, s.y]));
}

function drawMarks(u, marks) {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  const dot = devicePixelRatio;
  ctx.save();
  for (const mark of marks) {
    const x = u.valToPos(mark.x, 'x', true);
    if (!(x >= left && x <= left + width)) continue;
    ctx.strokeStyle = ctx.fillStyle = css(mark.alarm ? '--alarm' : '--mark');
    if (mark.alarm) {
      ctx.setLineDash([3 * dot, 3 * dot]);
      ctx.lineWidth = dot;
      ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, top + height); ctx.stroke();
    } else {
      ctx.beginPath();
      ctx.moveTo(x, top + height - 5 * dot); ctx.lineTo(x - 3 * dot, top + height); ctx.lineTo(x + 3 * dot, top + height);
      ctx.fill();
    }
  }
  ctx.restore();
}

function select(u, onWindow) {
  const { left, width } = u.select;
  if (width < 4 || !onWindow) return;
  onWindow([u.posToVal(left, 'x'), u.posToVal(left + width, 'x')]);
  u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
}

function options(props, width, readOut) {
  const { series, xFormat = number, yFormat = number, height = 190, log } = props();
  const axis = { stroke: css('--faint-ink'), font: FONT, ticks: { show: false }, grid: { stroke: css('--hairline'), width: 1 } };
  return {
    width, height, padding: [8, 14, 0, 0], legend: { show: false },
    cursor: {
      // Only where the mouse is travels to the other charts, by value; what is selected becomes part of the URL, which all obey.
      sync: { key: together.key, setSeries: false, scales: ['x', null], filters: { pub: (type) => type === 'mousemove' || type === 'mouseleave' } },
      y: false, drag: { x: true, y: false, setScale: false }, points: { size: 6 },
      bind: { dblclick: () => () => props().onWindow?.(null) },
    },
    scales: { x: { time: false, range: (u, min, max) => props().window || props().range || [min, max] }, y: log ? { distr: 3 } : {} },
    axes: [
      { ...axis, grid: { show: false }, size: 24, space: 70, incrs: props().xIncrements, values: (_, ticks) => ticks.map((v) => (v === null ? '' : xFormat(v))) },
      { ...axis, size: 52, space: 26, values: (_, ticks) => ticks.map((v) => (v === null ? '' : yFormat(v))) },
    ],
    series: [{}, ...series.map((s) => ({
      label: s.label, stroke: css(s.colour), width: s.faint ? 1 : 1.75, alpha: s.faint ? 0.28 : 1,
      dash: s.dash ? [5, 4] : undefined, points: { show: (u, i) => Boolean(s.points) || u.data[i].length === 1, size: 5, fill: css('--paper') }, spanGaps: true,
    }))],
    hooks: { draw: [(u) => drawMarks(u, props().marks || [])], setCursor: [readOut], setSelect: [(u) => select(u, props().onWindow)] },
  };
}

// The value at or before an index: series that were joined have gaps.
function valueAt(column, index) {
  for (let i = index; i >= 0 && i > index - 400; i -= 1) if (column[i] !== null && column[i] !== undefined) return column[i];
  return null;
}

function describe(title, s, xName, yFormat) {
  const known = s.y.map((y, i) => [s.x[i], y]).filter(([, y]) => y !== null && y !== undefined);
  if (!known.length) return `${title}: nothing recorded yet.`;
  const lowest = known.reduce((a, b) => (b[1] < a[1] ? b : a));
  const highest = known.reduce((a, b) => (b[1] > a[1] ? b : a));
  const [end, start] = [known[known.length - 1], known[0]];
  return `${title}, line chart over ${xName}. ${known.length} points, from ${yFormat(start[1])} to ${yFormat(end[1])}; ` +
    `lowest ${yFormat(lowest[1])} at ${number(lowest[0])}, highest ${yFormat(highest[1])} at ${number(highest[0])}.`;
}

export function Chart(given) {
  const { title, note, unit, series, version, xName = 'step', xFormat = number, yFormat = number, showFormat = yFormat } = given;
  const holder = useRef(null);
  const readout = useRef(null);
  const plot = useRef(null);
  const props = useRef(given);
  props.current = given;

  const shown = series.filter((s) => !s.silent);
  const latest = () => shown.map((s) => [s, valueAt(s.y, s.y.length - 1)]);
  const write = (pairs, where) => {
    if (!readout.current) return;
    readout.current.replaceChildren(...pairs.map(([s, value]) => {
      const span = document.createElement('span');
      span.textContent = `${shown.length > 1 ? s.label + ' ' : ''}${(props.current.showFormat || props.current.yFormat || number)(value)}`;
      span.style.color = `var(${s.colour})`;
      return span;
    }), Object.assign(document.createElement('small'), { textContent: where }));
  };
  const readOut = (u) => {
    const index = u.cursor.idx;
    const now = props.current;
    if (index === null || index === undefined || u.cursor.left < 0) { write(latest(), unit || ''); return; }
    const at = u.data[0][index];
    const near = (now.marks || []).filter((m) => Math.abs(u.valToPos(m.x, 'x') - u.cursor.left) < 6).map((m) => m.text);
    const pairs = now.series.map((s, i) => [s, valueAt(u.data[i + 1], index)]).filter(([s]) => !s.silent);
    write(pairs, [`at ${xName} ${(now.xFormat || number)(at)}`, ...near.slice(0, 2)].join(' · '));
  };

  // Rebuilt only when its shape changes; new points are added to the existing chart.
  const shape = JSON.stringify([series.map((s) => [s.label, s.colour, s.faint, s.dash]), xName, given.log]);
  useEffect(() => {
    const build = () => {
      if (plot.current) plot.current.destroy();
      plot.current = new uPlot(options(() => props.current, holder.current.clientWidth, readOut), table(props.current.series), holder.current);
      plot.current.over.setAttribute('aria-hidden', 'true');
    };
    build();
    const resize = new ResizeObserver(() => plot.current.setSize({ width: holder.current.clientWidth, height: props.current.height || 190 }));
    resize.observe(holder.current);
    dark.addEventListener('change', build);
    return () => { dark.removeEventListener('change', build); resize.disconnect(); plot.current.destroy(); plot.current = null; };
  }, [shape]);

  useEffect(() => {
    if (plot.current) plot.current.setData(table(series));
    write(latest(), unit || '');
  }, [version, shape, given.smooth, String(given.window)]);

  const onKey = (event) => {
    const u = plot.current;
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (!u || (!step && !['Home', 'End', 'Escape'].includes(event.key))) return;
    event.preventDefault();
    const lastIndex = u.data[0].length - 1;
    const from = u.cursor.idx ?? lastIndex;
    const to = event.key === 'Home' ? 0 : event.key === 'End' ? lastIndex : Math.min(lastIndex, Math.max(0, from + (step || 0)));
    const left = event.key === 'Escape' ? -10 : u.valToPos(u.data[0][to], 'x');
    u.setCursor({ left, top: 10 });
  };

  return html`<figure class="chart">
    <figcaption><h3>${title}</h3><output class="readout" ref=${readout} aria-live="off"></output></figcaption>
    ${note && html`<p class="note">${note}</p>`}
    <div class="plot" ref=${holder} tabindex="0" role="img" onKeyDown=${onKey}
      aria-label=${describe(title, shown[0], xName, showFormat)}></div>
  </figure>`;
}
