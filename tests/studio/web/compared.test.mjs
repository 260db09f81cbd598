import assert from "node:assert/strict";
import { test } from "node:test";

const { compareWords, runs, wish, words } = await import(
  "../../../src/creativewritinggpt/studio/web/write/compared.js"
);

const shown = (marked) => marked.map((one) => (one.differs ? `[${one.text}]` : one.text)).join("");

test("words join to their text", () => {
  for (const text of ["", "a", "  a b\n\nc  ", "\n", "one  two"]) {
    assert.equal(words(text).join(""), text);
  }
});

test("words that the other text does not have are marked", () => {
  const [left, right] = compareWords("The lamp went out.", "The old lamp came out.");
  assert.equal(shown(left), "The lamp[ went] out.");
  assert.equal(shown(right), "The[ old] lamp[ came] out.");
});

test("equal texts and empty ones", () => {
  assert.equal(shown(compareWords("a b", "a b")[0]), "a b");
  assert.equal(shown(compareWords("a b", "")[0]), "[a][ b]");
  assert.equal(shown(compareWords("", "a b")[1]), "[a][ b]");
  assert.deepEqual(runs(compareWords("a b c", "x")[0]), [{ text: "a b c", differs: true }]);
});

test("a choice of the comparison as the studio takes it", () => {
  assert.deepEqual(["base", "tuned", "model 3f", "preset dark tale", "style 0.5"].map(wish),
    [{ adapters: false }, {}, { model: "3f" }, { preset: "dark tale" }, { style: 0.5 }]);
});
