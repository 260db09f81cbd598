import assert from "node:assert/strict";
import { test } from "node:test";

const web = "../../../src/creativewritinggpt/studio/web/write";
const {
  alternatives, FigureStore, MEASURES, percent, readable, spoken, spokenAlternative, step, strength, visible,
  wordAt, wordsOf,
} = await import(
  `${web}/figures.js`
);

const figure = (from, to, logprob = -1, more = {}) => ({
  from, to, logprob, rank: 2, entropy: 1, base: null, fresh: true, ...more,
});

test("steps are those of the legend, at their limits too", () => {
  const { probability, rank, entropy, difference } = MEASURES;
  const of = (measure, values) => values.map((value) => step(measure, value));
  assert.deepEqual(of(probability, [1, 0.5, 0.49, 0.2, 0.05, 0.01, 0.001, 0.0001, 0]),
    [0, 0, 1, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual(of(rank, [1, 2, 3, 4, 10, 11, 30, 31, 100, 101, 1000, 1001, 50000]),
    [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
  assert.deepEqual(of(entropy, [0, 0.49, 0.5, 1, 4.9, 5, 11]), [0, 0, 1, 2, 5, 6, 6]);
  assert.deepEqual(of(difference, [-9, -2, -0.5, 0, 0.3, 1, 2]), [0, 1, 2, 3, 4, 5, 6]);
  assert.equal(step(difference, null), null);
  for (const measure of Object.values(MEASURES)) {
    assert.equal(measure.legend.length, measure.limits.length + 1);
  }
});

test("percentages are those of the terminal", () => {
  assert.deepEqual([1, 0.0995, 0.0994, 0.031, 0.001, 0.0004].map(percent),
    ["100", "10", "9.9", "3.1", "0.1", "less than 0.1"]);
});

test("a figure is spoken with its word, percent and rank", () => {
  const one = figure(0, 8, Math.log(0.031), { rank: 7 });
  assert.equal(spoken(" lantern", one, MEASURES.probability), "lantern, 3.1 percent, rank 7");
  assert.equal(spoken("\n", { ...one, fresh: false }, MEASURES.rank),
    "line end, 3.1 percent, rank 7, from before a change");
  assert.match(spoken("x", { ...one, base: one.logprob - Math.log(4) }, MEASURES.difference),
    /4\.0 times as likely as in the base model$/);
  assert.match(spoken("x", { ...one, base: one.logprob + Math.log(40) }, MEASURES.difference),
    /40 times less likely than in the base model$/);
  assert.match(spoken("x", one, MEASURES.entropy), /entropy 1\.0 nats/);
  assert.deepEqual([readable("  "), readable(""), visible(" a\n"), visible("  ")],
    ["space", "nothing", " a↵", "··"]);
});

test("words are made of tokens, by the smallest probability or the product", () => {
  const text = "The lan­tern,  so\n\nend 🐉🐉";
  const cuts = ["The", " lan", "­tern", ",", " ", " so", "\n\n", "end", " 🐉", "🐉"];
  let at = 0;
  const tokens = cuts.map((cut, i) => {
    const made = figure(at, at + cut.length, -(i + 1), { rank: i + 1, entropy: i, base: -1 });
    at += cut.length;
    return made;
  });
  assert.equal(at, text.length);
  const slice = (from, to) => text.slice(from, to);
  const words = wordsOf(tokens, slice, "minimum");
  assert.deepEqual(words.map((word) => text.slice(word.from, word.to)),
    ["The", " lan­tern,", " ", " so", "\n\n", "end", " 🐉🐉"]);
  assert.deepEqual([words[1].logprob, words[1].rank, words[1].entropy], [-4, 4, 3]);
  const product = wordsOf(tokens, slice, "product");
  assert.deepEqual([product[1].logprob, product[1].base], [-9, -3]);
  assert.equal(tokens[1].logprob, -2, "the tokens themselves stay");
  const unspaced = "灯灭了。";
  const letters = [figure(0, 1), figure(1, 3), figure(3, 4)];
  assert.equal(wordsOf(letters, (from, to) => unspaced.slice(from, to), "minimum").length, 3);
  const gap = wordsOf([figure(0, 3), figure(5, 8)], () => "abc", "minimum");
  assert.equal(gap.length, 2, "over a gap no word is joined");
});

test("figures are put in place of those that stand there", () => {
  const store = new FigureStore();
  store.add([[4, 8, -1, 1, 1, null], [8, 9, -1, 1, 1, null]]);
  store.add([[0, 4, -2, 1, 1, null]]);
  store.add([[9, 12, -3, 1, 1, null]]);
  store.add([[4, 9, -4, 1, 1, null]]);
  assert.deepEqual(store.tokens.map((one) => [one.from, one.to, one.logprob]),
    [[0, 4, -2], [4, 9, -4], [9, 12, -3]]);
  assert.ok(store.covers(0, 12) && store.covers(5, 9) && !store.covers(0, 13));
  assert.deepEqual(store.between(4, 5).map((one) => one.from), [4]);
  store.add([]);
  assert.equal(store.tokens.length, 3);
});

test("after an edit what is behind it is old and what was replaced is gone", () => {
  const store = new FigureStore();
  store.add([[0, 4, -1, 1, 1, null], [4, 8, -1, 1, 1, null], [8, 12, -1, 1, 1, null]]);
  store.change(5, 6, 3);
  assert.deepEqual(store.tokens.map((one) => [one.from, one.to, one.fresh]),
    [[0, 4, true], [10, 14, false]]);
  assert.ok(store.covers(0, 4) && !store.covers(0, 14) && !store.covers(10, 14));
  const typed = new FigureStore();
  typed.add([[0, 4, -1, 1, 1, null], [4, 8, -1, 1, 1, null]]);
  typed.change(8, 8, 1);
  assert.ok(typed.covers(0, 8), "a space behind a word changes nothing of it");
  typed.change(8, 8, 1, true);
  assert.ok(typed.covers(0, 4) && !typed.covers(4, 8), "a letter may");
  store.change(0, 0, 2);
  assert.deepEqual(store.tokens.map((one) => [one.from, one.to, one.fresh]),
    [[2, 6, false], [12, 16, false]]);
  store.add([[2, 6, -1, 1, 1, null]]);
  assert.ok(store.covers(2, 6));
  store.age(3);
  assert.ok(!store.covers(2, 6));
});

test("any row of edits leaves no figure fresh behind the first of them", () => {
  let seed = 7;
  const random = (below) => (seed = (seed * 1103515245 + 12345) % 2147483648) % below;
  for (let round = 0; round < 200; round++) {
    const store = new FigureStore();
    let text = "abcd efgh ijkl mnop qrst uvwx";
    store.add(text.split(/(?= )/).reduce((rows, word) => {
      const from = rows.length ? rows[rows.length - 1][1] : 0;
      return [...rows, [from, from + word.length, -1, 1, 1, null]];
    }, []));
    let first = text.length;
    for (let edit = 0; edit < 4; edit++) {
      const from = random(text.length);
      const to = Math.min(text.length, from + random(4));
      const inserted = "xyz".slice(0, random(4));
      store.change(from, to, inserted.length);
      text = text.slice(0, from) + inserted + text.slice(to);
      first = Math.min(first, from);
    }
    let last = 0;
    for (const token of store.tokens) {
      assert.ok(token.from >= last && token.to > token.from && token.to <= text.length);
      assert.ok(!token.fresh || token.to <= first);
      last = token.to;
    }
  }
});

test("alternatives before and after the samplers are one list", () => {
  const one = (id, text, probability, takes = text) => ({ id, text, probability, takes });
  const list = alternatives({
    text: " sea",
    before: [one(1, " lamp", 0.5), one(2, " sea", 0.3), one(3, "\ufffd", 0.1, null)],
    after: [one(1, " lamp", 0.625), one(2, " sea", 0.375)],
  });
  assert.deepEqual(list.map((each) => [each.text, each.before, each.after, each.here]), [
    [" lamp", 0.5, 0.625, false], [" sea", 0.3, 0.375, true], ["\ufffd", 0.1, null, false],
  ]);
  assert.deepEqual(list.map(spokenAlternative), [
    "lamp, 50 percent, 63 percent after the samplers",
    "sea, 30 percent, 38 percent after the samplers, stands here",
    "\ufffd, 10 percent, removed by the samplers, no text of its own",
  ]);
});

test("the word at the caret is the one under it, or the one before", () => {
  const text = "The lamp went.  So";
  const word = (at) => text.slice(...wordAt(text, at));
  assert.deepEqual([0, 3, 4, 8, 13, 15, 16, 18].map(word),
    ["The", "The", "lamp", "lamp", "went.", "went.", "So", "So"]);
  assert.deepEqual([wordAt("", 0), wordAt("   ", 2)], [[0, 0], [0, 0]]);
});

test("scores are drawn by their share of the largest, small ones not at all", () => {
  assert.deepEqual([2, 1, 0.3, 0.05, -2, -0.06, 0].map((score) => strength(score, 2)),
    [3, 2, 1, 0, -3, -1, 0]);
});
