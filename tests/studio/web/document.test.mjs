import assert from "node:assert/strict";
import { test } from "node:test";

const web = "../../../src/creativewritinggpt/studio/web/write";
const { difference, recover, StoryDocument, toChanges, toText } = await import(`${web}/document.js`);

/** A studio with one text, as the desk keeps it: edits are moved over what came since. */
class Studio {
  constructor(text) {
    this.text = text;
    this.revision = 1;
    this.log = [];
  }

  state() {
    return { n: this.log.length, story: { id: "s", revision: this.revision, text: this.text } };
  }

  publish(event) {
    this.log.push({ n: this.log.length + 1, ...event });
  }

  change(changes, fields) {
    for (const [from, to, insert] of [...changes].reverse()) {
      this.text = this.text.slice(0, from) + insert + this.text.slice(to);
    }
    this.revision++;
    this.publish({ kind: "story", revision: this.revision, changes, ...fields });
  }

  piece(text, at = this.text.length) {
    this.text = this.text.slice(0, at) + text + this.text.slice(at);
    this.publish({ kind: "piece", job: "j", row: 0, at, text });
  }

  edit(body) {
    let changes = toChanges(body.changes, this.lengthAt(body.n));
    for (const event of this.log.slice(body.n)) {
      const list = event.kind === "piece" ? [[event.at, event.at, event.text]] : event.changes;
      changes = changes.map(toChanges(list, changes.length));
    }
    const list = [];
    changes.iterChanges((from, to, _a, _b, insert) => list.push([from, to, insert.toString()]));
    this.change(list, { by: body.tab, edit: body.id });
    return { revision: this.revision, n: this.log.length };
  }

  lengthAt(n) {
    let { length } = this.text;
    for (const event of this.log.slice(n)) {
      const list = event.kind === "piece" ? [[event.at, event.at, event.text]] : event.changes;
      for (const [from, to, insert] of list) length -= insert.length - (to - from);
    }
    return length;
  }
}

/** A tab with its editor's text. */
function open(studio, options = {}) {
  const page = { shown: toText(studio.text), kept: null, conflicts: [], failures: [], seen: studio.log.length };
  page.doc = new StoryDocument("tab", {
    send: options.send ?? (async (body) => studio.edit(body)),
    show: (changes) => {
      page.shown = changes.apply(page.shown);
    },
    keep: (unsent) => {
      page.kept = unsent && structuredClone(unsent);
    },
    conflict: (theirs) => page.conflicts.push(theirs),
    failed: (error) => page.failures.push(error),
  });
  page.doc.reset(studio.state());
  page.type = (from, to, insert) => {
    const changes = toChanges([[from, to, insert]], page.shown.length);
    page.shown = changes.apply(page.shown);
    page.doc.local(changes);
  };
  page.read = (count = Infinity) => {
    const events = studio.log.slice(page.seen, page.seen + count);
    page.seen += events.length;
    for (const event of events) page.doc.take(event);
  };
  return page;
}

test("what is typed reaches the studio, and its own event is not applied twice", async () => {
  const studio = new Studio("one\ntwo");
  const page = open(studio);
  page.type(3, 3, "!");
  assert.equal(page.kept.stages[0].changes[0].insert, "!");
  await page.doc.flush();
  assert.equal(studio.text, "one!\ntwo");
  page.read();
  assert.equal(page.shown.toString(), "one!\ntwo");
  assert.equal(page.doc.dirty, false);
  assert.equal(page.kept, null);
});

test("pieces that come while something is typed stand before it", async () => {
  const studio = new Studio("The lamp");
  const page = open(studio);
  studio.piece(" went");
  page.type(8, 8, "!");
  page.read();
  assert.equal(page.shown.toString(), "The lamp went!");
  studio.piece(" out");
  await page.doc.flush();
  page.read();
  assert.equal(studio.text, "The lamp went out!");
  assert.equal(page.shown.toString(), studio.text);
});

test("a random walk of typing, pieces, foreign changes and late events ends in one text", async () => {
  let seed = 7;
  const random = (limit) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % limit;
  };
  for (let walk = 0; walk < 60; walk++) {
    const studio = new Studio("a lamp 😀 and\r\n a ferry");
    const page = open(studio);
    for (let step = 0; step < 40; step++) {
      const what = random(5);
      if (what === 0) {
        const from = random(page.shown.length + 1);
        page.type(from, Math.min(page.shown.length, from + random(4)), ["x", "é\n", "", "😀"][random(4)]);
      } else if (what === 1) studio.piece(["p", "q ", "😀"][random(3)], random(studio.text.length + 1));
      else if (what === 2) page.read(1 + random(3));
      else if (what === 3) {
        const from = random(studio.text.length + 1);
        studio.change([[from, Math.min(studio.text.length, from + random(3)), "f"]], { by: "job:j" });
      } else if (!page.doc.inflight) await page.doc.flush();
      assert.equal(page.doc.shown.toString(), page.shown.toString());
    }
    page.read();
    await page.doc.flush();
    page.read();
    await page.doc.flush();
    page.read();
    assert.equal(page.shown.toString(), studio.text);
    assert.equal(page.doc.dirty, false);
    clearTimeout(page.doc.timer);
  }
});

test("an edit that never arrived is sent again; one that did is not", async () => {
  const studio = new Studio("text");
  let down = true;
  let answer = true;
  const page = open(studio, {
    send: async (body) => {
      if (down) throw Object.assign(new Error("offline"), { status: 0 });
      const found = studio.edit(body);
      if (!answer) throw Object.assign(new Error("offline"), { status: 0 });
      return found;
    },
  });
  page.type(4, 4, " one");
  await assert.rejects(page.doc.flush());
  assert.ok(page.kept);
  down = false;
  await page.doc.flush();
  page.read();
  answer = false;
  page.type(8, 8, " two");
  await assert.rejects(page.doc.flush());
  page.read();
  await page.doc.flush();
  assert.equal(studio.text, "text one two");
  assert.equal(page.shown.toString(), studio.text);
});

test("a stale edit beside another tab's change shows both versions and sends nothing", async () => {
  const studio = new Studio("The lamp.");
  const page = open(studio, {
    send: async () => {
      throw Object.assign(new Error("stale"), { status: 409, kind: "stale", body: { text: studio.text, revision: studio.revision } });
    },
  });
  page.type(8, 8, " burned");
  studio.change([[4, 8, "ferry"]], { by: "other" });
  page.read();
  await page.doc.flush();
  assert.deepEqual(page.conflicts, [{ text: "The ferry.", revision: 2 }]);
  assert.match(page.shown.toString(), /burned/);
  page.type(0, 0, "Then: ");
  await page.doc.flush();
  assert.equal(page.conflicts.length, 1);
  clearTimeout(page.doc.timer);
});

test("after a restart of the studio unsent text is kept, and what it has is not doubled", () => {
  const studio = new Studio("The lamp.");
  const page = open(studio, { send: async () => new Promise(() => {}) });
  page.type(8, 8, " burned");
  page.doc.refresh({ n: 0, story: { id: "s", revision: 1, text: "The lamp." } });
  assert.equal(page.shown.toString(), "The lamp burned.");
  assert.ok(page.doc.dirty);
  page.doc.refresh({ n: 0, story: { id: "s", revision: 2, text: "The lamp burned." } });
  assert.equal(page.doc.dirty, false);
  page.type(0, 0, "So: ");
  page.doc.refresh({ n: 0, story: { id: "s", revision: 5, text: "Another text." } });
  assert.equal(page.conflicts.length, 1);
  clearTimeout(page.doc.timer);
});

test("unsent text is put back where it stood, and said to be lost where its place is gone", () => {
  const stage = { length: 9, changes: [{ from: 8, removed: "", insert: " burned", before: "The lamp" }] };
  const unsent = { story: "s", stages: [stage, { length: 16, changes: [{ from: 0, removed: "The", insert: "A", before: "" }] }] };
  assert.deepEqual(recover(unsent, "The lamp."), { text: "A lamp burned.", lost: [] });
  assert.deepEqual(recover(unsent, "The lamp burned."), { text: "A lamp burned.", lost: [] });
  assert.deepEqual(recover(unsent, "A lamp burned."), { text: "A lamp burned.", lost: [" burned"] });
  assert.deepEqual(recover(unsent, "Something else"), { text: "Something else", lost: [" burned", "A"] });
});

test("the difference of two texts is one replacement that makes one the other", () => {
  for (const [old, text] of [["", ""], ["", "a"], ["aa", "aaa"], ["abc", "axc"], ["😀", "😁"], ["a\nb", "b"]]) {
    const list = difference(old, text);
    assert.ok(list.length <= 1);
    assert.equal(toChanges(list, old.length).apply(toText(old)).toString(), text);
  }
});
