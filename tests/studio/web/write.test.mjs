import assert from "node:assert/strict";
import { test } from "node:test";

const web = "../../../src/creativewritinggpt/studio/web/write";
const { latestUnder, layoutTree, versionsOf } = await import(`${web}/tree.js`);
const { escaped, finishedSentences, lines, splitKeys } = await import(`${web}/typed.js`);

const passage = (id, parent, branches = [], by = "model") => ({ id, parent, by, begins: `p${id}`, words: 2, branches });

test("a run without a fork is one row, a fork gives each way a lane", () => {
  const rows = layoutTree([passage(0, -1, [], "writer"), passage(1, 0), passage(2, 0, ["other"]), passage(3, 1, ["main"])], "main");
  assert.deepEqual(rows.map((row) => row.ids), [[0], [2], [1, 3]]);
  assert.deepEqual(rows.map((row) => row.lane), [0, 1, 0]);
  assert.deepEqual(rows.map((row) => row.level), [1, 2, 2]);
  assert.deepEqual(rows.map((row) => row.parent), [-1, 0, 0]);
  assert.deepEqual(rows[1].through, [{ lane: 0, current: true }]);
  assert.equal(rows[2].words, 4);
  assert.ok(rows[2].current && !rows[1].current);
});

test("what no branch reaches is set aside, and every passage stands in exactly one row", () => {
  const passages = [passage(0, -1), passage(1, 0), passage(2, 1, ["main"]), passage(3, 0), passage(4, 3), passage(5, 3), passage(6, -1)];
  const rows = layoutTree(passages, "main");
  assert.deepEqual(rows.flatMap((row) => row.ids).sort(), [0, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual(rows.filter((row) => row.aside).flatMap((row) => row.ids).sort(), [3, 4, 5, 6]);
  for (const [at, row] of rows.entries()) assert.ok(row.parent < at);
});

test("two ways never share a lane where both are drawn", () => {
  const passages = [passage(0, -1)];
  for (let id = 1; id < 200; id++) passages.push(passage(id, (id * 7919) % id, id === 199 ? ["main"] : []));
  const rows = layoutTree(passages, "main");
  for (const row of rows) {
    const lanes = [row.lane, ...row.through.map((one) => one.lane)];
    assert.equal(new Set(lanes).size, lanes.length);
  }
});

test("an empty tree, and ten thousand passages in a line", () => {
  assert.deepEqual(layoutTree([], "main"), []);
  const line = Array.from({ length: 10_000 }, (_one, id) => passage(id, id - 1, id === 9999 ? ["main"] : []));
  assert.equal(layoutTree(line, "main").length, 1);
});

test("versions are siblings; going back to one goes to what was written on from it last", () => {
  const passages = [passage(0, -1), passage(1, 0), passage(2, 0), passage(3, 1), passage(4, 3), passage(5, 2)];
  assert.deepEqual(versionsOf(passages, 2), [1, 2]);
  assert.deepEqual(versionsOf(passages, 9), []);
  assert.equal(latestUnder(passages, 1), 4);
  assert.equal(latestUnder(passages, 2), 5);
  assert.equal(latestUnder(passages, 4), 4);
});

test("sentences are finished when something follows them", () => {
  assert.deepEqual(finishedSentences("One. “Two?” Thr"), { sentences: ["One.", "“Two?”"], rest: " Thr" });
  assert.deepEqual(finishedSentences("It cost 3.50 and"), { sentences: [], rest: "It cost 3.50 and" });
  assert.deepEqual(finishedSentences("End."), { sentences: [], rest: "End." });
});

test("keys are split at commas, but not within a regular expression", () => {
  assert.deepEqual(splitKeys("lantern, /ledger{1,2}/i , ferry & night"), ["lantern", "/ledger{1,2}/i", "ferry & night"]);
  assert.deepEqual(splitKeys(" , "), []);
  assert.deepEqual(splitKeys("and/or"), ["and/or"]);
});

test("lists are typed one text a line", () => {
  const list = { name: "stop", kind: "list" };
  assert.deepEqual(lines("\\n\n***\nback\\\\n", null, list), ["\n", "***", "back\\n"]);
  assert.equal(lines(" \n", null, list), null);
  assert.deepEqual(lines("lamp=2\n a=b=-1", null, { name: "logit_bias", kind: "text" }), { lamp: 2, " a=b": -1 });
  assert.equal(escaped("a\\b\n\t"), "a\\\\b\\n\\t");
});
