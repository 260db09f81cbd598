// The Write room: the text, the commands below it and the panels beside it.
import { EditorView } from "/vendor/codemirror.js";
import { later, loadStyle } from "../ui.js";
import { createTools } from "./tools.js";
import { conflictDialog, lostDialog } from "./conflict.js";
import { StoryDocument, difference, recover, toChanges, toList } from "./document.js";
import {
  createEditor, createFollower, passageAt, rangesOf, setPassages, showForeign,
} from "./editor.js";
import { buildLayout } from "./layout.js";
import { createPanels } from "./panels.js";
import { addPanels } from "./side.js";
import { createWriting } from "./writing.js";

const UNSENT = "write.unsent";
const SAME_END = 20; // letters at the end of two texts that may be the same by chance
const READ = "write.read"; // lasting notes that were read

/**
 * What the modules of the room share.
 * @typedef {object} Write
 * @property {any} app
 * @property {import("@codemirror/view").EditorView} view
 * @property {() => any} story the story without its text
 * @property {() => number} revision
 * @property {(extension: import("@codemirror/state").Extension) => void} addExtension
 * @property {ReturnType<typeof createPanels>["panel"]} panel
 * @property {(listener: (story: any, event: any) => void) => void} onStory
 * @property {(listener: (update: import("@codemirror/view").ViewUpdate) => void) => void} onUpdate
 * @property {ReturnType<typeof createTools>["command"]} command
 * @property {() => Promise<void>} flush settles when the studio has all that was typed
 * @property {() => Promise<void>} settled the same
 * @property {() => boolean} pending whether something typed is not confirmed yet
 * @property {() => boolean} dirty the same
 * @property {(path: string, body?: Record<string, any>) => Promise<any>} post a command on the story
 * @property {(place: number, side?: number) => number} toShown
 * @property {(place: number) => number} fromShown
 * @property {(place: number) => ReturnType<typeof passageAt>} passageAt
 * @property {{show: (content: HTMLElement, title: string) => void, hide: () => void}} sheet
 * @property {(text: string, level?: string, advice?: string | null) => void} status
 * @property {() => void} focus
 * @property {(error: any) => void} failed
 */

/**
 * @param {HTMLElement} room
 * @param {any} app
 */
export async function mount(room, app) {
  await loadStyle("/write/write.css");
  const layout = buildLayout(room);
  /** @type {((story: any, event: any) => void)[]} */
  const storyListeners = [];
  /** @type {((update: any) => void)[]} */
  const updateListeners = [];
  /** @type {any[] | null} events that wait for a state that is being fetched */
  let waiting = [];
  let command = Promise.resolve();
  let ownCommand = 0; // time of the last command of this tab, whose change is to be seen

  const story = () => app.state.get().story;
  const editor = createEditor(layout.page, {
    typed(changes) {
      const writing = jobs.current();
      doc.local(changes, writing !== null);
    },
    updated(update) {
      if (update.docChanged) layout.invite(update.state.doc.length === 0);
      for (const listener of updateListeners) listener(update);
    },
    history: (which) => tools.run(which === "undo" ? "Undo" : "Redo"),
  });
  const { view } = editor;
  const follower = createFollower(view);

  const doc = new StoryDocument(app.tab, {
    send: (body) => app.api("POST", "/api/story/edit", body),
    keep(unsent) {
      if (unsent) sessionStorage.setItem(UNSENT, JSON.stringify(unsent));
      else sessionStorage.removeItem(UNSENT);
      layout.unsent(unsent !== null);
    },
    show(changes, event) {
      const byModel = event.kind === "piece";
      const own = Date.now() - ownCommand < 5000 && !byModel;
      showForeign(view, changes, { byModel, caretAfter: byModel });
      if (byModel) {
        const end = doc.toShown(event.at + event.text.length, 1);
        follower.follow(end);
      } else if (own) showPlace(changes);
    },
    conflict: () => void conflictDialog(write, doc),
    failed,
  });

  /** After an undo or a step to another branch: the place that changed is shown. @param {any} changes */
  function showPlace(changes) {
    let place = -1;
    changes.iterChanges((/** @type {number} */ _a, /** @type {number} */ _b, /** @type {number} */ _from, /** @type {number} */ to) => {
      place = to;
    });
    // Two texts may end in the same letters: the caret belongs behind them, where the story goes on.
    if (place >= 0 && place >= view.state.doc.length - SAME_END) place = view.state.doc.length;
    if (place >= 0) view.dispatch({ selection: { anchor: place }, scrollIntoView: true });
  }

  /** @param {any} error */
  function failed(error) {
    if (error.kind === "other_tab" || error.kind === "readonly") showAccess();
    app.status(error.message, "error", error.advice);
  }

  function showAccess() {
    const { story: one, writer } = app.state.get();
    const other = Boolean(writer) && writer !== app.tab;
    editor.setReadOnly(Boolean(one.readonly) || other);
    const access = one.readonly ?? (other ? "This story is being written in another tab." : null);
    if (!access && one.unsaved) {
      // The status line says other things meanwhile.
      layout.notice(`Not saved: ${one.unsaved}. The text is here, and it is tried again every few seconds.`);
      return;
    }
    const note = access ? null : unread()[0];
    if (note) {
      layout.notice([note.text, note.advice].filter(Boolean).join(": "), { label: "OK", run() {
        localStorage.setItem(READ, JSON.stringify([...read(), keyOf(note)].slice(-50)));
        showAccess();
        view.focus();
      } });
      return;
    }
    layout.notice(
      access,
      one.readonly ? { label: "Open to write", run: () => void openAgain() }
        : other ? { label: "Write here", run: () => void writeHere() } : null,
    );
  }

  // What happened before this page was there stays until it is read.
  /** @returns {string[]} */
  const read = () => JSON.parse(localStorage.getItem(READ) ?? "[]");
  const keyOf = (/** @type {{text: string}} */ note) => `${app.state.get().epoch} ${note.text}`;
  const unread = () => (app.state.get().notes ?? []).filter((/** @type {any} */ note) => note.lasting && !read().includes(keyOf(note)));

  /** Open a story again that another session had. */
  async function openAgain() {
    try {
      await app.api("POST", "/api/library/open", { id: story().id, tab: app.tab });
      view.focus();
    } catch (error) {
      failed(error);
    }
  }

  async function writeHere() {
    try {
      await app.api("POST", "/api/tabs/write", { tab: app.tab });
      app.state.set({ writer: app.tab });
      showAccess();
      view.focus();
      await doc.flush(); // what was typed when the other tab took over
    } catch (error) {
      failed(error);
    }
  }

  /** @param {string} path @param {Record<string, any>} [body] */
  function post(path, body = {}) {
    const sent = command.then(async () => {
      await doc.flush();
      ownCommand = Date.now();
      return app.api("POST", path, { tab: app.tab, n: doc.n, revision: doc.revision, ...body });
    });
    command = sent.then(() => {}, () => {});
    return sent;
  }

  /** The passages of the story at their places in the shown text. */
  function showPassages() {
    let ranges = rangesOf(story().passages, doc.confirmed.length);
    for (const changes of [doc.inflight?.changes, doc.pending]) {
      if (changes) ranges = { passages: ranges.passages.map(changes), inks: ranges.inks.map(changes) };
    }
    view.dispatch({ effects: setPassages.of(ranges) });
  }

  /** @param {any} event */
  function takeStory(event) {
    if (!doc.take(event)) {
      void refetch();
      return;
    }
    const patch = event.patch;
    if (patch) {
      const { passages_from: from = 0, ...rest } = patch;
      if (patch.passages) rest.passages = [...story().passages.slice(0, from), ...patch.passages];
      app.state.set({ story: { ...story(), ...rest, revision: event.revision } });
      if (patch.passages) showPassages();
      if ("readonly" in patch || "unsaved" in patch) showAccess();
    }
    for (const listener of storyListeners) listener(story(), event);
  }

  /** @param {any} event */
  function take(event) {
    if (waiting) {
      waiting.push(event);
      return;
    }
    if (event.n <= doc.n) return;
    if (event.kind === "story") takeStory(event);
    else if (event.kind === "piece") {
      jobs.piece(event);
      if (event.row === 0 && jobs.writesText(event.job)) doc.take(event);
    } else if (event.kind === "job") jobs.take(event);
    doc.n = event.n;
  }

  /** @param {any} state @param {boolean} first */
  function open(state, first) {
    const { text, ...rest } = state.story;
    const other = rest.id !== doc.story;
    app.state.set({ ...state, story: rest });
    jobs.reset(state.jobs ?? []);
    if (first) {
      doc.reset(state);
      showForeign(view, toChanges(text ? [[0, 0, text]] : [], 0));
      putBack(text);
    } else {
      if (other && doc.dirty) {
        const typed = [];
        for (const changes of [doc.inflight?.changes, doc.pending]) {
          if (changes) typed.push(...toList(changes).map((change) => change[2]).filter(Boolean));
        }
        void lostDialog(write, typed);
      }
      doc.refresh(state);
    }
    layout.invite(view.state.doc.length === 0);
    showPassages();
    showAccess();
    if (first || other) {
      const end = view.state.doc.length;
      view.dispatch({ selection: { anchor: end }, effects: EditorView.scrollIntoView(end, { y: "end", yMargin: Math.min(160, view.scrollDOM.clientHeight / 4) }) });
    }
    for (const listener of storyListeners) listener(story(), { kind: "state" });
    const late = waiting ?? [];
    waiting = null;
    late.forEach(take);
  }

  /** What was typed before a crash or a reload and did not reach the studio. @param {string} text */
  function putBack(text) {
    const kept = sessionStorage.getItem(UNSENT);
    sessionStorage.removeItem(UNSENT);
    if (!kept) return;
    const unsent = JSON.parse(kept);
    if (unsent.story !== doc.story) {
      void lostDialog(write, unsent.stages.flatMap((/** @type {any} */ stage) =>
        stage.changes.map((/** @type {any} */ change) => change.insert)).filter(Boolean));
      return;
    }
    const found = recover(unsent, text);
    const changes = difference(text, found.text);
    if (changes.length) {
      view.dispatch({ changes: toChanges(changes, text.length) });
      app.status("What was typed before the page was left is back.");
    }
    if (found.lost.length) void lostDialog(write, found.lost);
  }

  /** @type {Promise<void> | null} */
  let fetching = null;
  function refetch() {
    waiting ??= [];
    fetching ??= app.api("GET", "/api/state")
      .then((/** @type {any} */ state) => {
        fetching = null;
        open(state, false);
      })
      .catch((/** @type {any} */ error) => {
        fetching = null;
        if (error.status !== 0) failed(error);
        setTimeout(refetch, 1000);
      });
    return fetching;
  }

  /** @type {Write} */
  const write = {
    app,
    view,
    story,
    revision: () => doc.revision,
    addExtension: editor.addExtension,
    panel: (name, title, content, options) => panels.panel(name, title, content, options),
    onStory: (listener) => void storyListeners.push(listener),
    onUpdate: (listener) => void updateListeners.push(listener),
    command: (name, run, keys, options) => tools.command(name, run, keys, options),
    flush: () => doc.flush(),
    settled: () => doc.flush(),
    pending: () => doc.dirty,
    dirty: () => doc.dirty,
    post,
    toShown: (place, side) => doc.toShown(place, side),
    fromShown(place) {
      const own = doc.own();
      return own ? own.invertedDesc.mapPos(place, -1) : place;
    },
    passageAt: (place) => passageAt(view.state, place),
    sheet: layout.sheet(() => view.focus()),
    status: app.status,
    focus: () => view.focus(),
    failed,
  };
  const panels = createPanels(layout.row, layout.side, () => view.focus());
  const jobs = createWriting(write, {
    begin() {
      view.contentDOM.setAttribute("aria-busy", "true");
      follower.start();
    },
    end: () => view.contentDOM.removeAttribute("aria-busy"),
    say: layout.say,
  });
  const tools = createTools(write, layout, jobs);
  addPanels(write, layout, jobs);
  layout.begin.addEventListener("click", () => void app.show("library"));

  for (const kind of ["story", "piece", "job"]) app.events.on(kind, take);
  app.events.on("model", (/** @type {any} */ event) => app.state.set({ model: { ...app.state.get().model, ...event } }));
  app.events.on("settings", (/** @type {any} */ event) => app.state.set({ settings: { ...app.state.get().settings, ...event } }));
  app.events.on("note", (/** @type {any} */ note) => {
    if (!note.lasting) return;
    app.state.set({ notes: [...(app.state.get().notes ?? []), note] });
    showAccess();
  });
  app.events.on("saved", (/** @type {any} */ event) => app.state.set({ saved: event.revision }));
  app.events.on("writer", (/** @type {any} */ event) => {
    app.state.set({ writer: event.tab });
    showAccess();
  });
  app.events.on("hello", (/** @type {any} */ hello) => {
    if ("writer" in hello) app.state.set({ writer: hello.writer });
    if (hello.reset) void refetch();
    else if (!waiting) {
      showAccess();
      // What was sent when the connection broke may be in the events that now follow.
      if (doc.dirty) setTimeout(() => doc.flush().catch(failed), 300);
    }
  });
  addEventListener("pagehide", () => {
    if (!doc.pending || doc.inflight || doc.disputed) return;
    const body = JSON.stringify(doc.body(doc.pending, `${app.tab}-last`));
    if (body.length > 60_000) return; // too long for a request that outlives the page; it is kept
    void fetch("/api/story/edit", {
      method: "POST", keepalive: true, headers: { "content-type": "application/json" }, body,
    }).catch(() => {});
  });
  const retry = later(() => {
    if (doc.dirty && app.events.connected) void doc.flush().catch(() => {});
  }, 3000);
  updateListeners.push((update) => {
    if (update.docChanged) retry();
  });

  const state = app.state.get();
  if (state.story?.text !== undefined && state.n === app.events.n) open(state, true);
  else open(await app.api("GET", "/api/state"), true);
  try {
    const insight = await import("./insight.js");
    await insight.attach(app, write);
  } catch (error) {
    app.status("The part of the page for heat and reasons could not be loaded; reload the page.", "error");
    console.error(error);
  }
  panels.restore();
  view.focus();
  return {
    write,
    show: () => view.requestMeasure(),
    hide: () => void doc.flush().catch(failed),
  };
}
