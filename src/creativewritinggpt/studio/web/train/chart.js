// Curves of a training with uPlot: canvas, redrawn when the theme changes; numbers stand beside it.
import uPlot from "/vendor/uplot.js";

/** @typedef {{label: string, values: (number | null)[], colour: string, width?: number, dash?: number[], points?: boolean}} Line */

const HEIGHT = 240;
const WHOLE = [1, 2, 5].flatMap((one) => [0, 1, 2, 3, 4, 5, 6, 7].map((power) => one * 10 ** power)).sort((a, b) => a - b);

/**
 * A chart that grows with its element.
 * @param {HTMLElement} place
 * @param {{unit: string, onPoint: (index: number | null) => void}} options
 */
export function createChart(place, { unit, onPoint }) {
  /** @type {any} */
  let plot = null;
  let shape = "";
  /** @type {{x: number[], lines: Line[], log: boolean} | null} */
  let last = null;

  /** @param {string} name of a CSS variable @returns {string} */
  const colour = (name) => getComputedStyle(place).getPropertyValue(name).trim() || "CanvasText";

  /** @param {boolean} log @param {Line[]} lines */
  function make(log, lines) {
    const ink = colour("--quiet");
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    return new uPlot(/** @type {any} */ ({
      width: Math.max(place.clientWidth, 200), height: HEIGHT, legend: { show: false },
      scales: { x: { time: false, distr: log ? 3 : 1 }, y: { range: range } },
      axes: [{ ...axis, label: "step", labelSize: 18, labelFont: "12px system-ui, sans-serif", size: 36, incrs: WHOLE },
        { ...axis, size: 56, values: (/** @type {any} */ _u, /** @type {number[]} */ ticks) => ticks.map(short) }],
      cursor: { drag: { x: true, y: false }, points: { size: 6 } },
      series: [{}, ...lines.map((line) => ({
        label: line.label, stroke: colour(line.colour), width: line.width ?? 2, dash: line.dash,
        spanGaps: true, points: { show: Boolean(line.points), size: 6, fill: colour(line.colour) },
      }))],
      hooks: { setCursor: [(/** @type {any} */ u) => onPoint(u.cursor.idx ?? null)] },
    }), [[], ...lines.map(() => [])], place);
  }

  /**
   * @param {number[]} x
   * @param {Line[]} lines
   * @param {boolean} log
   */
  function draw(x, lines, log) {
    last = { x, lines, log };
    if (!place.clientWidth) return; // hidden; drawn when it is shown
    const wanted = JSON.stringify([log, lines.map((line) => [line.label, line.colour, line.points]), colour("--ink"), colour("--line")]);
    if (wanted !== shape) {
      plot?.destroy();
      plot = make(log, lines);
      shape = wanted;
    }
    plot.setData(/** @type {any} */ ([x, ...lines.map((line) => line.values)]));
  }

  const again = () => {
    if (last) draw(last.x, last.lines, last.log);
  };
  new ResizeObserver(() => {
    if (plot && place.clientWidth) plot.setSize({ width: place.clientWidth, height: HEIGHT });
    else again();
  }).observe(place);
  new MutationObserver(again).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  place.title = `${unit}: drag to look closer, double click for all`;
  return { draw, again };
}

/**
 * The first, still noisy steps must not squeeze the rest of the curve.
 * @param {any} u
 * @param {number | null} low
 * @param {number | null} high
 * @returns {[number, number]}
 */
function range(u, low, high) {
  if (low === null || high === null) return [0, 1];
  const all = u.data.slice(1).flat().filter((/** @type {any} */ value) => Number.isFinite(value));
  all.sort((/** @type {number} */ a, /** @type {number} */ b) => a - b);
  const top = all.length > 20 ? all[Math.ceil(0.99 * (all.length - 1))] : high;
  const margin = Math.max(0.06 * (top - low), Math.abs(top) * 0.005, 1e-9);
  return [low - margin, top + margin];
}

/** @param {number} value */
function short(value) {
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  return magnitude < 0.01 || magnitude >= 1e5 ? value.toExponential(1).replace("e-", "e−") : String(Number(value.toPrecision(4)));
}
