// Figures of tokens as the heat shows them: measures and their steps, words, names, and where they stand.

/**
 * Figures of one token or one word.
 * @typedef {object} Figure
 * @property {number} from first character in the text
 * @property {number} to its last character, plus one
 * @property {number} logprob log-probability, in nats
 * @property {number} rank number of likelier tokens, plus one; of a word the largest
 * @property {number} entropy of the model's distribution, in nats; of a word the largest
 * @property {number | null} base log-probability of the base model
 * @property {boolean} fresh whether the text before it is as it was when it was read
 */

/**
 * @typedef {object} Measure
 * @property {string} name
 * @property {string} label
 * @property {string} unit
 * @property {(figure: Figure) => number | null} value
 * @property {number[]} limits six limits between seven steps, in the order of the steps
 * @property {boolean} falling whether larger values are lower steps
 * @property {string[]} legend what each step stands for
 * @property {string} help
 */

/** @type {Record<string, Measure>} */
export const MEASURES = {
  probability: {
    name: "probability",
    label: "Probability",
    unit: "%",
    value: (figure) => Math.exp(figure.logprob),
    limits: [0.5, 0.2, 0.05, 0.01, 0.001, 0.0001],
    falling: true,
    legend: ["over 50 %", "20–50 %", "5–20 %", "1–5 %", "0.1–1 %", "0.01–0.1 %", "under 0.01 %"],
    help: "How likely the model found each word at its place.",
  },
  rank: {
    name: "rank",
    label: "Rank",
    unit: "",
    value: (figure) => figure.rank,
    limits: [2, 4, 11, 31, 101, 1001],
    falling: false,
    legend: ["1st", "2–3", "4–10", "11–30", "31–100", "101–1,000", "over 1,000"],
    help: "How many words the model found likelier, plus one.",
  },
  entropy: {
    name: "entropy",
    label: "Entropy",
    unit: "nats",
    value: (figure) => figure.entropy,
    limits: [0.5, 1, 2, 3, 4, 5],
    falling: false,
    legend: ["under 0.5", "0.5–1", "1–2", "2–3", "3–4", "4–5", "over 5 nats"],
    help: "How open the place was: the more words could have come, the larger.",
  },
  difference: {
    name: "difference",
    label: "Difference base–tuned",
    unit: "nats",
    value: (figure) => (figure.base === null ? null : figure.logprob - figure.base),
    limits: [-2, -1, -0.3, 0.3, 1, 2],
    falling: false,
    legend: ["−2 or less", "−2 to −1", "−1 to −0.3", "about the same", "0.3 to 1", "1 to 2", "2 nats or more"],
    help: "What training changed: above 0 the tuned model finds the word likelier than its base.",
  },
};

/** The step of a value, 0…6; null where there is none. @param {Measure} measure @param {number | null} value */
export function step(measure, value) {
  if (value === null || Number.isNaN(value)) return null;
  const over = measure.limits.findIndex((limit) => (measure.falling ? value >= limit : value < limit));
  return over < 0 ? measure.limits.length : over;
}

const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;

/** Probability as a short percentage, as the terminal has it. @param {number} probability 0…1 */
export function percent(probability) {
  if (probability >= 0.0995) return `${Math.round(probability * 100)}`;
  if (probability >= 0.001) return (probability * 100).toFixed(1);
  return "less than 0.1";
}

/** @param {number} number */
export function signed(number) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;
}

/** A text as it can be read and spoken: blanks by name. @param {string} text */
export function readable(text) {
  if (text.trim()) return text.trim();
  if (text.includes("\n")) return "line end";
  return text ? "space" : "nothing";
}

/** A text with its blanks visible. @param {string} text */
export function visible(text) {
  const shown = text.replaceAll("\n", "↵").replaceAll("\t", "→");
  return shown.trim() ? shown : shown.replaceAll(" ", "·") || "∅";
}

/**
 * A figure as it is spoken: "lantern, 3.1 percent, rank 7".
 * @param {string} text @param {Figure} figure @param {Measure} measure
 */
export function spoken(text, figure, measure) {
  const parts = [readable(text), `${percent(Math.exp(figure.logprob))} percent`];
  parts.push(`rank ${figure.rank.toLocaleString("en")}`);
  if (measure.name === "entropy") parts.push(`entropy ${figure.entropy.toFixed(1)} nats`);
  const value = measure.name === "difference" ? measure.value(figure) : null;
  if (value !== null) {
    const times = Math.exp(Math.abs(value));
    const shown = times < 10 ? times.toFixed(1) : Math.round(times).toLocaleString("en");
    parts.push(times < 1.05 ? "as likely as in the base model"
      : `${shown} times ${value > 0 ? "as likely as" : "less likely than"} in the base model`);
  }
  if (!figure.fresh) parts.push("from before a change");
  return parts.join(", ");
}

/**
 * Figures of words: a token belongs to the word in which its last character lies, or, for blanks, to
 * the one that follows, as in the explanations.
 * @param {Figure[]} tokens in the order of the text
 * @param {(from: number, to: number) => string} slice the text
 * @param {"minimum" | "product"} by how a word's probability is made of its tokens'
 * @returns {Figure[]}
 */
export function wordsOf(tokens, slice, by) {
  /** @type {Figure[]} */
  const words = [];
  /** @type {Figure | null} */
  let open = null;
  let last = "";
  for (const token of tokens) {
    const text = slice(token.from, token.to);
    // A token that begins a word, or follows a gap, begins a figure.
    const joins = open !== null && token.from <= open.to && !/^\s/.test(text) && !/\s$/.test(last) &&
      !UNSPACED.test(text.slice(0, 1)) && !UNSPACED.test(last.slice(-1));
    last = text || last;
    if (open && joins) {
      open.to = Math.max(open.to, token.to);
      if (by === "product") {
        open.logprob += token.logprob;
        open.base = open.base === null || token.base === null ? null : open.base + token.base;
      } else if (token.logprob < open.logprob) {
        open.logprob = token.logprob;
        open.base = token.base;
      }
      open.rank = Math.max(open.rank, token.rank);
      open.entropy = Math.max(open.entropy, token.entropy);
      open.fresh = open.fresh && token.fresh;
      continue;
    }
    open = { ...token };
    words.push(open);
  }
  return words;
}

/** Figures in the order of the text, through edits. */
export class FigureStore {
  constructor() {
    /** @type {Figure[]} */
    this.tokens = [];
  }

  clear() {
    this.tokens = [];
  }

  /** Index of the first figure that ends behind a place. @param {number} at */
  after(at) {
    let low = 0;
    let high = this.tokens.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tokens[middle].to > at) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Figures that touch a range. @param {number} from @param {number} to */
  between(from, to) {
    const found = [];
    for (let i = this.after(from); i < this.tokens.length && this.tokens[i].from < to; i++) {
      found.push(this.tokens[i]);
    }
    return found;
  }

  /**
   * Put figures in the place of those that stand there.
   * @param {[number, number, number, number, number, number | null][]} rows in the order of the text
   */
  add(rows) {
    if (!rows.length) return;
    const first = this.after(rows[0][0]);
    const end = rows[rows.length - 1][1];
    let last = first;
    while (last < this.tokens.length && this.tokens[last].from < end) last++;
    const made = rows.map(([from, to, logprob, rank, entropy, base]) => (
      { from, to, logprob, rank, entropy, base, fresh: true }));
    this.tokens.splice(first, last - first, ...made);
  }

  /** All that follows a place is from before a change. @param {number} at */
  age(at) {
    for (let i = this.after(at); i < this.tokens.length; i++) this.tokens[i].fresh = false;
  }

  /**
   * Follow a change of the text: figures of what it replaced go, those behind it move and are old.
   * @param {number} from @param {number} to of the text before @param {number} inserted characters
   * @param {boolean} [joins] whether the word before may go on: its last token may be another one now
   */
  change(from, to, inserted, joins = false) {
    const moved = inserted - (to - from);
    const first = this.after(from);
    if (joins && first && this.tokens[first - 1].to === from) this.tokens[first - 1].fresh = false;
    // In place, since a story has 100,000 of them and this runs at every key.
    let last = first;
    while (last < this.tokens.length && (this.tokens[last].from < to || this.tokens[last].from < from)) last++;
    if (last > first) this.tokens.splice(first, last - first);
    for (let i = first; i < this.tokens.length; i++) {
      const token = this.tokens[i];
      token.from += moved;
      token.to += moved;
      token.fresh = false;
    }
  }

  /** Whether a range is covered by figures that are not old. @param {number} from @param {number} to */
  covers(from, to) {
    let at = from;
    for (const token of this.between(from, to)) {
      if (token.from > at || !token.fresh) return false;
      at = Math.max(at, token.to);
    }
    return at >= to;
  }
}

/**
 * The alternatives of a token in one list: as the model had them, with what the samplers made of
 * them.
 * @param {any} token the event of the studio
 * @returns {{id: number, text: string, takes: string | null, before: number | null, after: number | null, here: boolean}[]}
 */
export function alternatives(token) {
  /** @type {Map<number, any>} */
  const found = new Map();
  for (const name of ["before", "after"]) {
    for (const one of token[name]) {
      const entry = found.get(one.id) ?? { id: one.id, text: one.text, takes: one.takes, before: null, after: null };
      entry[name] = one.probability;
      found.set(one.id, entry);
    }
  }
  const list = [...found.values()].sort((a, b) => (b.before ?? 0) - (a.before ?? 0) || (b.after ?? 0) - (a.after ?? 0));
  return list.map((one) => ({ ...one, here: one.takes === token.text || one.text === token.text }));
}

/** An alternative as it is spoken. @param {ReturnType<typeof alternatives>[number]} one */
export function spokenAlternative(one) {
  const parts = [readable(one.text)];
  if (one.before !== null) parts.push(`${percent(one.before)} percent`);
  parts.push(one.after === null ? "removed by the samplers" : `${percent(one.after)} percent after the samplers`);
  if (one.here) parts.push("stands here");
  else if (one.takes === null) parts.push("no text of its own");
  return parts.join(", ");
}

/** Changes below this are not named, in nats, as in the terminal. */
export const LEAST = 0.05;

/**
 * The step of a score, −3…3; 0 is not drawn.
 * @param {number} score @param {number} largest size of the largest score
 */
export function strength(score, largest) {
  if (Math.abs(score) <= LEAST || largest <= 0) return 0;
  const share = Math.abs(score) / largest;
  return Math.sign(score) * (share > 0.6 ? 3 : share > 0.25 ? 2 : 1);
}

/**
 * The word at a place, or around it: a run without blanks.
 * @param {string} text @param {number} at
 * @returns {[number, number]}
 */
export function wordAt(text, at) {
  let from = Math.min(at, text.length);
  // At the end of a word, and behind the blanks after it, the word before.
  while (from > 0 && (from === text.length || /\s/.test(text[from]))) from--;
  if (/\s/.test(text[from] ?? " ")) return [from, from];
  let to = from;
  while (from > 0 && !/\s/.test(text[from - 1])) from--;
  while (to < text.length && !/\s/.test(text[to])) to++;
  return [from, to];
}
