// The text of the story as this tab has it: what the studio confirmed, and what was typed since.
//
//   confirmed text ── inflight (sent, not yet seen in the log) ── pending (not yet sent) ── shown text
//
// Foreign changes (pieces of the model, undo, other tabs) are relative to the confirmed text; they
// are moved over the own changes to be shown, and the own changes are moved over them. At equal
// places what the model wrote stands before what is typed.
import { ChangeSet, Text } from "/vendor/codemirror.js";

/**
 * A change as it travels: from, to (UTF-16 units of the text before), inserted text.
 * @typedef {[number, number, string]} Change
 */

/**
 * Changes that were typed together, with what stood around them.
 * @typedef {object} Stage
 * @property {number} length length of the text that the changes apply to
 * @property {{from: number, removed: string, insert: string, before: string}[]} changes
 */

/**
 * What is kept outside the page until the studio has it: what was sent, and what was typed since.
 * @typedef {{story: string, stages: Stage[]}} Unsent
 */

/**
 * @typedef {object} Host
 * @property {(body: Record<string, any>) => Promise<unknown>} send an edit
 * @property {(changes: ChangeSet, event: any) => void} show a foreign change in the editor
 * @property {(unsent: Unsent | null) => void} keep
 * @property {(theirs: {text: string, revision: number}) => void} conflict
 * @property {(error: any) => void} failed an edit was refused or the studio does not answer
 */

const CONTEXT = 24; // characters before a change that are kept to find its place again
const WAIT = 250; // milliseconds after the last key before an edit is sent
const LONGEST_WAIT = 1000;

/** @param {string} text @returns {Text} */
export function toText(text) {
  return Text.of(text.split("\n"));
}

/** @param {ChangeSet} changes @returns {Change[]} */
export function toList(changes) {
  /** @type {Change[]} */
  const list = [];
  changes.iterChanges((from, to, _start, _end, insert) => list.push([from, to, insert.toString()]));
  return list;
}

/** @param {Change[]} list @param {number} length of the text before @returns {ChangeSet} */
export function toChanges(list, length) {
  return ChangeSet.of(list.map(([from, to, insert]) => ({ from, to, insert })), length, "\n");
}

/**
 * The one replacement that turns one text into another.
 * @param {string} old
 * @param {string} text
 * @returns {Change[]} empty where they are equal
 */
export function difference(old, text) {
  if (old === text) return [];
  const least = Math.min(old.length, text.length);
  let start = 0;
  while (start < least && old.charCodeAt(start) === text.charCodeAt(start)) start++;
  let end = 0;
  while (end < least - start &&
    old.charCodeAt(old.length - 1 - end) === text.charCodeAt(text.length - 1 - end)) end++;
  return [[start, old.length - end, text.slice(start, text.length - end)]];
}

/**
 * Put unsent changes into a text that was opened, where they are not in it already.
 * @param {Unsent} unsent
 * @param {string} text the text that the studio has now
 * @returns {{text: string, lost: string[]}} the text with them; insertions whose place is gone
 */
export function recover(unsent, text) {
  /** @type {string[]} */
  const lost = [];
  for (const { changes, length } of unsent.stages) {
    let moved = 0;
    let there = true;
    for (const { from, removed, insert } of changes) {
      if (text.slice(from + moved, from + moved + insert.length) !== insert) there = false;
      moved += insert.length - removed.length;
    }
    if (there && text.length === length + moved) continue;
    const fits = text.length === length && changes.every(({ from, removed, before }) =>
      text.slice(Math.max(0, from - CONTEXT), from) === before &&
      text.slice(from, from + removed.length) === removed);
    if (fits) {
      for (const { from, removed, insert } of [...changes].reverse()) {
        text = text.slice(0, from) + insert + text.slice(from + removed.length);
      }
    } else lost.push(...changes.map(({ insert }) => insert).filter(Boolean));
  }
  return { text, lost };
}

/** @param {Text} text @param {ChangeSet} changes @returns {Stage} */
function stage(text, changes) {
  return {
    length: text.length,
    changes: toList(changes).map(([from, to, insert]) => ({
      from,
      insert,
      removed: text.sliceString(from, to),
      before: text.sliceString(Math.max(0, from - CONTEXT), from),
    })),
  };
}

export class StoryDocument {
  /** @param {string} tab @param {Host} host */
  constructor(tab, host) {
    this.tab = tab;
    this.host = host;
    this.story = "";
    this.revision = 0;
    this.n = 0;
    this.confirmed = Text.empty;
    /** @type {{changes: ChangeSet, id: string, state: "sent" | "answered" | "failed"} | null} */
    this.inflight = null;
    /** @type {ChangeSet | null} */
    this.pending = null;
    /** Whether somebody else than the model changed the text beside own changes. */
    this.foreign = false;
    /** Whether both versions are being shown: nothing is sent until one is chosen. */
    this.disputed = false;
    this.count = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.first = 0;
    /** @type {Promise<void> | null} */
    this.sending = null;
  }

  /** Whether there is text that the studio does not have yet. */
  get dirty() {
    return this.inflight !== null || this.pending !== null;
  }

  /** The text that is shown. @returns {Text} */
  get shown() {
    let text = this.confirmed;
    if (this.inflight) text = this.inflight.changes.apply(text);
    return this.pending ? this.pending.apply(text) : text;
  }

  /** Begin with the text of a state; own changes are dropped. @param {{n: number, story: any}} state */
  reset(state) {
    this.story = state.story.id;
    this.revision = state.story.revision;
    this.n = state.n;
    this.confirmed = toText(state.story.text);
    this.inflight = null;
    this.pending = null;
    this.foreign = false;
    this.disputed = false;
    clearTimeout(this.timer);
  }

  /** Where a place of the confirmed text is shown. @param {number} place @param {number} [side] */
  toShown(place, side = -1) {
    const from = Math.min(place, this.confirmed.length);
    const sent = this.inflight ? this.inflight.changes.mapPos(from, side) : from;
    return this.pending ? this.pending.mapPos(sent, side) : sent;
  }

  /** The own changes as one, or null. @returns {ChangeSet | null} */
  own() {
    if (this.inflight && this.pending) return this.inflight.changes.compose(this.pending);
    return this.inflight?.changes ?? this.pending;
  }

  /** Something was typed. @param {ChangeSet} changes @param {boolean} [now] send without waiting */
  local(changes, now = false) {
    this.pending = this.pending ? this.pending.compose(changes) : changes;
    this.keep();
    this.schedule(now);
  }

  /** @param {boolean} [now] */
  schedule(now = false) {
    if (this.timer === undefined) this.first = Date.now();
    clearTimeout(this.timer);
    const left = Math.max(0, this.first + LONGEST_WAIT - Date.now());
    this.timer = setTimeout(() => {
      this.timer = undefined;
      void this.flush().catch((error) => this.host.failed(error));
    }, now ? 0 : Math.min(WAIT, left));
  }

  keep() {
    const stages = [];
    let text = this.confirmed;
    for (const changes of [this.inflight?.changes, this.pending]) {
      if (!changes) continue;
      stages.push(stage(text, changes));
      if (changes !== this.pending) text = changes.apply(text);
    }
    this.host.keep(stages.length ? { story: this.story, stages } : null);
  }

  /**
   * Send what is pending; settles when the studio has everything typed up to now.
   * @returns {Promise<void>}
   */
  flush() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.sending ??= this.sendAll().finally(() => {
      this.sending = null;
    });
    return this.sending;
  }

  async sendAll() {
    while (!this.disputed && (this.pending || this.inflight?.state === "failed")) {
      if (this.inflight && this.inflight.state !== "failed") await this.seen();
      if (this.inflight && this.inflight.state !== "failed") return; // its event is on its way
      if (!this.inflight) {
        if (!this.pending) return;
        const id = `${this.tab}-${Date.now().toString(36)}-${this.count++}`;
        this.inflight = { changes: this.pending, id, state: "sent" };
        this.pending = null;
      }
      await this.sendOne(this.inflight);
    }
  }

  /** The body of an edit. @param {ChangeSet} changes @param {string} id */
  body(changes, id) {
    return { revision: this.revision, n: this.n, tab: this.tab, id, changes: toList(changes) };
  }

  /** @param {NonNullable<StoryDocument["inflight"]>} edit */
  async sendOne(edit) {
    edit.state = "sent";
    try {
      await this.host.send(this.body(edit.changes, edit.id));
      edit.state = "answered";
    } catch (error) {
      if (this.inflight !== edit) return; // its event came after all
      edit.state = "failed";
      const { status, kind, body } = /** @type {any} */ (error);
      if (status !== 409 || kind !== "stale") throw error;
      await this.stale(body);
    }
  }

  /** @param {{text: string, revision: number}} theirs */
  async stale(theirs) {
    // The events that made the edit stale may still be on their way.
    await this.seen(() => this.revision >= theirs.revision);
    if (this.inflight === null) return; // the studio had it already
    const caughtUp = this.revision === theirs.revision && this.confirmed.toString() === theirs.text;
    if (caughtUp && !this.foreign) return; // only the model wrote: the edit was moved, send it again
    if (this.shown.toString() === theirs.text) {
      this.settle(theirs, []);
      return;
    }
    this.dispute(theirs);
  }

  /**
   * Show both versions. Until one is chosen, events go on to be applied and nothing is sent.
   * @param {{text: string, revision: number}} theirs
   */
  dispute({ text, revision }) {
    if (this.revision !== revision || this.confirmed.toString() !== text) {
      const own = difference(text, this.shown.toString());
      this.confirmed = toText(text);
      this.revision = revision;
      this.inflight = null;
      this.pending = own.length ? toChanges(own, text.length) : null;
    }
    this.disputed = true;
    this.keep();
    this.host.conflict({ text, revision });
  }

  /**
   * Go on from the studio's text with own changes relative to it.
   * @param {{text: string, revision: number}} theirs
   * @param {Change[]} own
   */
  settle(theirs, own) {
    this.confirmed = toText(theirs.text);
    this.revision = theirs.revision;
    this.inflight = null;
    this.pending = own.length ? toChanges(own, this.confirmed.length) : null;
    this.foreign = false;
    this.disputed = false;
    this.keep();
    if (this.pending) this.schedule(true);
  }

  /** Wait until the event of the sent edit was seen, half a second at most. @param {() => boolean} [done] */
  async seen(done = () => this.inflight === null || this.inflight.state === "failed") {
    for (let tries = 0; tries < 25 && !done(); tries++) {
      await new Promise((go) => setTimeout(go, 20));
    }
  }

  /**
   * Take an event of the log that changes the text: `story` or `piece` of row 0.
   * @param {any} event
   * @returns {boolean} false where the text has to be fetched anew
   */
  take(event) {
    if (event.n <= this.n) return true;
    this.n = event.n;
    if (event.kind === "piece") {
      this.foreignChange([[event.at, event.at, event.text]], event);
      return true;
    }
    if (event.changes === null) return false;
    const sent = this.inflight;
    if (sent && event.edit && sent.id === event.edit) {
      this.confirmed = sent.changes.apply(this.confirmed);
      this.inflight = null;
      this.foreign = false;
      this.revision = event.revision;
      this.keep();
      if (this.pending && !this.sending) this.schedule(true);
      return true;
    }
    if (event.changes.length && event.revision > this.revision) {
      if (this.dirty && !String(event.by).startsWith("job:")) this.foreign = true;
      this.foreignChange(event.changes, event);
    }
    this.revision = Math.max(this.revision, event.revision);
    return true;
  }

  /** @param {Change[]} list @param {any} event */
  foreignChange(list, event) {
    let changes = toChanges(list, this.confirmed.length);
    this.confirmed = changes.apply(this.confirmed);
    const sent = this.inflight;
    if (sent) {
      const moved = changes.map(sent.changes, true);
      sent.changes = sent.changes.map(changes);
      changes = moved;
    }
    if (this.pending) {
      const moved = changes.map(this.pending, true);
      this.pending = this.pending.map(changes);
      changes = moved;
    }
    if (this.dirty) this.keep();
    this.host.show(changes, event);
  }

  /**
   * Take a state that was fetched anew, after a lost connection or a restart of the studio.
   * @param {{n: number, story: any}} state
   */
  refresh(state) {
    const shown = this.shown.toString();
    const { id, text, revision } = state.story;
    const before = this.confirmed.toString();
    const own = this.own();
    const same = id === this.story;
    this.n = state.n;
    this.story = id;
    if (!own || !same || text === shown || text === before) {
      const keepOwn = same && own !== null && text !== shown;
      this.settle({ text, revision }, keepOwn ? toList(own) : []);
      if (!keepOwn && text !== shown) {
        this.host.show(toChanges(difference(shown, text), shown.length), { kind: "state" });
      }
      return;
    }
    this.dispute({ text, revision });
  }
}
