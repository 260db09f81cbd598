import assert from "node:assert/strict";
import { test } from "node:test";

const web = "../../../src/creativewritinggpt/studio/web/write";
const { EditorState } = await import("/vendor/codemirror.js");
const { addModelInk, authorship, foreign, passageAt, rangesOf, setPassages } = await import(`${web}/editor.js`);

const passage = (id, by, from, to) => ({ id, parent: id - 1, by, from, to, words: 1, begins: "", seed: 1, versions: 1, aside: false });

/** A text of ten letters: 0 to 4 the author's, 4 to 10 the model's. */
function open() {
  const passages = [passage(0, "writer", 0, 4), passage(1, "model", 4, 10)];
  const state = EditorState.create({ doc: "abcdefghij", extensions: [authorship] });
  return state.update({ effects: setPassages.of(rangesOf(passages, 10)) }).state;
}

/** The places that have the model's ink. */
function inks(state) {
  const found = [];
  state.field(authorship).inks.between(0, state.doc.length, (from, to) => void found.push([from, to]));
  return found;
}

test("what is typed within the model's words is the author's at once", () => {
  const state = open().update({ changes: { from: 6, insert: "XX" } }).state;
  assert.deepEqual(inks(state), [[4, 6], [8, 12]]);
});

test("typing beside the model's words neither takes nor doubles their ink", () => {
  let state = open();
  for (let key = 0; key < 50; key++) state = state.update({ changes: { from: 4, insert: "x" } }).state;
  for (let key = 0; key < 50; key++) state = state.update({ changes: { from: state.doc.length, insert: "y" } }).state;
  assert.deepEqual(inks(state), [[54, 60]]);
});

test("what is written elsewhere has the ink that is told", () => {
  const state = open().update({
    changes: { from: 10, insert: "klm" }, annotations: foreign.of(true), effects: addModelInk.of({ from: 10, to: 13 }),
  }).state;
  assert.deepEqual(inks(state), [[4, 10], [10, 13]]);
});

test("at the end of a passage the caret is in it, not in the next", () => {
  const state = open();
  assert.equal(passageAt(state, 0).passage.id, 0);
  assert.equal(passageAt(state, 4).passage.id, 0);
  assert.equal(passageAt(state, 5).passage.id, 1);
  assert.equal(passageAt(state, 10).passage.id, 1);
  assert.equal(passageAt(EditorState.create({ doc: "", extensions: [authorship] }), 0), null);
});

test("places beyond the text are cut off, passages of other branches left out", () => {
  const { passages } = rangesOf([passage(0, "model", 0, 4), passage(1, "model", 3, 99), passage(2, "model", null, null)], 6);
  const found = [];
  passages.between(0, 6, (from, to) => void found.push([from, to]));
  assert.deepEqual(found, [[0, 4], [3, 6]]);
});
