// The curves of a training as data: lines over one axis of steps, and the table of the same numbers.

/** @typedef {import("./chart.js").Line} Line */
/** @typedef {{step: number, loss: number, domains: Record<string, number>}} Validation */
/**
 * @typedef {object} Curves
 * @property {number[]} steps
 * @property {number[]} loss
 * @property {number[]} learning_rate
 * @property {Validation[]} validations
 * @property {string[]} domains
 * @property {number | null} base
 * @property {Record<string, number>} base_domains
 * @property {{step: number, loss: number} | null} best
 * @property {number | null} total_steps
 * @property {{step: number, prompt: string, text: string}[]} samples
 * @property {string} sentence
 */

const COLOURS = ["--accent", "--warn", "--good", "--model-ink", "--quiet"];
const MOST_DOMAINS = COLOURS.length;

/**
 * A running mean that begins with the mean of what there is, so that it does not lag at first.
 * @param {number[]} values
 * @returns {number[]}
 */
export function smoothed(values) {
  const width = Math.max(1, Math.round(values.length / 30));
  let sum = 0;
  return values.map((value, place) => {
    sum += value;
    if (place >= width) sum -= values[place - width];
    return sum / Math.min(place + 1, width);
  });
}

/**
 * All steps that have a number, in order.
 * @param {Curves} curves
 * @returns {number[]}
 */
export function axisOf(curves) {
  const at = new Set([...curves.steps, ...curves.validations.map((one) => one.step)]);
  if (curves.base !== null && at.size) at.add(0);
  return [...at].sort((a, b) => a - b);
}

/**
 * @param {number[]} axis
 * @param {number[]} steps
 * @param {number[]} values
 * @returns {(number | null)[]}
 */
function along(axis, steps, values) {
  const at = new Map(steps.map((step, place) => [step, values[place]]));
  return axis.map((step) => at.get(step) ?? null);
}

/**
 * @param {Curves} curves
 * @returns {{x: number[], lines: Line[]}}
 */
export function lossLines(curves) {
  const x = axisOf(curves);
  const steps = curves.validations.map((one) => one.step);
  const losses = curves.validations.map((one) => one.loss);
  /** @type {Line[]} */
  const lines = [
    { label: "each step", values: along(x, curves.steps, curves.loss), colour: "--line", width: 1 },
    { label: "training (mean)", values: along(x, curves.steps, smoothed(curves.loss)), colour: "--accent" },
    { label: "validation", values: along(x, [0, ...steps], [/** @type {any} */ (curves.base), ...losses]), colour: "--warn", points: true },
  ];
  if (curves.base !== null) {
    lines.push({ label: "base model", values: x.map(() => curves.base), colour: "--quiet", width: 1, dash: [6, 4] });
  }
  return { x, lines };
}

/** @param {Curves} curves @returns {{x: number[], lines: Line[]}} */
export function domainLines(curves) {
  const x = axisOf(curves).filter((step) => step === 0 || curves.validations.some((one) => one.step === step));
  const lines = curves.domains.slice(0, MOST_DOMAINS).map((name, place) => {
    const at = new Map(curves.validations.map((one) => [one.step, one.domains[name] ?? null]));
    if (name in curves.base_domains) at.set(0, curves.base_domains[name]);
    return { label: name, values: x.map((step) => at.get(step) ?? null), colour: COLOURS[place], points: true };
  });
  return { x, lines };
}

/** @param {Curves} curves @returns {{x: number[], lines: Line[]}} */
export function rateLines(curves) {
  return { x: curves.steps, lines: [{ label: "learning rate", values: curves.learning_rate, colour: "--accent" }] };
}

/**
 * The numbers as rows: a row a validation, with the mean training loss since the one before.
 * @param {Curves} curves
 * @returns {{step: number, training: number | null, validation: number, domains: (number | null)[]}[]}
 */
export function tableOf(curves) {
  let before = 0;
  return curves.validations.map((one) => {
    const since = curves.loss.filter((_, place) => curves.steps[place] > before && curves.steps[place] <= one.step);
    before = one.step;
    return {
      step: one.step,
      training: since.length ? since.reduce((sum, value) => sum + value, 0) / since.length : null,
      validation: one.loss,
      domains: curves.domains.map((name) => one.domains[name] ?? null),
    };
  });
}
