// The editor of the story: plain text in CodeMirror, who wrote what, and where the model's view begins.
import {
  Annotation, Compartment, Decoration, EditorSelection, EditorState, EditorView, Prec, RangeSet,
  RangeValue, StateEffect, StateField, Transaction, WidgetType, findNext, findPrevious, keymap,
  openSearchPanel, placeholder, search, searchKeymap, standardKeymap,
} from "/vendor/codemirror.js";

/**
 * A passage of the current branch, at its place in the text.
 * @typedef {object} Passage
 * @property {number} id
 * @property {number} parent
 * @property {string} by writer, model or chapter
 * @property {number | null} from
 * @property {number | null} to
 * @property {number} words
 * @property {string} begins
 * @property {number | null} seed
 * @property {number} versions
 * @property {boolean} aside
 */

/** Marks transactions that show what happened elsewhere; they are not the author's. */
export const foreign = Annotation.define();

class PassageValue extends RangeValue {
  /** @param {Passage} passage */
  constructor(passage) {
    super();
    this.passage = passage;
  }

  /** @param {PassageValue} other @override */
  eq(other) {
    return other.passage.id === this.passage.id;
  }
}

const marks = {
  model: Decoration.mark({ class: "by-model" }),
  chapter: Decoration.mark({ class: "by-chapter" }),
};

/**
 * Passages and marks of a list, in the order of the text.
 * @param {Passage[]} passages
 * @param {number} length of the text; what is beyond is cut off
 */
export function rangesOf(passages, length) {
  const values = [];
  const inks = [];
  for (const passage of passages) {
    if (passage.from === null || passage.to === null) continue;
    const from = Math.min(passage.from, length);
    const to = Math.min(passage.to, length);
    if (from >= to) continue;
    values.push(new PassageValue(passage).range(from, to));
    if (passage.by === "model" || passage.by === "chapter") inks.push(marks[passage.by].range(from, to));
  }
  return { passages: RangeSet.of(values, true), inks: RangeSet.of(inks, true) };
}

/** Replaces all passages. @type {import("@codemirror/state").StateEffectType<ReturnType<typeof rangesOf>>} */
export const setPassages = StateEffect.define();

/** Text that the model just wrote. @type {import("@codemirror/state").StateEffectType<{from: number, to: number}>} */
export const addModelInk = StateEffect.define();

/**
 * Cut what the author typed out of the model's ink.
 * @param {import("@codemirror/view").DecorationSet} inks
 * @param {number} from @param {number} to
 */
function punch(inks, from, to) {
  /** @type {import("@codemirror/state").Range<Decoration>[]} */
  const parts = [];
  const outside = (/** @type {number} */ start, /** @type {number} */ end) => end <= from || start >= to;
  inks.between(from, to, (start, end, value) => {
    if (outside(start, end)) return;
    if (start < from) parts.push(value.range(start, from));
    if (end > to) parts.push(value.range(to, end));
  });
  return inks.update({ filterFrom: from, filterTo: to, filter: outside, add: parts, sort: true });
}

/** Who wrote what. */
export const authorship = StateField.define({
  create: () => rangesOf([], 0),
  update(value, transaction) {
    let { passages, inks } = value;
    if (transaction.docChanged) {
      passages = passages.map(transaction.changes);
      inks = inks.map(transaction.changes);
      if (!transaction.annotation(foreign)) {
        transaction.changes.iterChanges((_a, _b, from, to) => {
          if (to > from) inks = punch(inks, from, to);
        });
      }
    }
    for (const effect of transaction.effects) {
      if (effect.is(setPassages)) ({ passages, inks } = effect.value);
      if (effect.is(addModelInk)) {
        inks = inks.update({ add: [marks.model.range(effect.value.from, effect.value.to)], sort: true });
      }
    }
    return passages === value.passages && inks === value.inks ? value : { passages, inks };
  },
  provide: (field) => EditorView.decorations.from(field, (value) => value.inks),
});

/**
 * The passage at a place, the one that ends there before the one that begins there.
 * @param {EditorState} state
 * @param {number} place
 * @returns {{passage: Passage, from: number, to: number} | null}
 */
export function passageAt(state, place) {
  /** @type {{passage: Passage, from: number, to: number} | null} */
  let found = null;
  state.field(authorship).passages.between(Math.max(0, place - 1), place, (from, to, value) => {
    if (to < place || (from >= place && place > 0)) return undefined;
    found = { passage: value.passage, from, to };
    return false;
  });
  return found;
}

class ViewRule extends WidgetType {
  /** @override */
  toDOM() {
    const mark = document.createElement("span");
    mark.className = "view-rule";
    mark.setAttribute("aria-hidden", "true");
    const label = document.createElement("span");
    label.textContent = "the model sees from here";
    mark.append(label);
    return mark;
  }

  /** @override */
  eq() {
    return true;
  }

  /** @override */
  ignoreEvent() {
    return true;
  }
}

const rule = Decoration.widget({ widget: new ViewRule(), side: -1 });
const outside = Decoration.mark({ class: "out-of-view" });

/** Sets the place where the model's view begins. @type {import("@codemirror/state").StateEffectType<number>} */
export const setViewStart = StateEffect.define();

/** Where the model's view begins: a rule in the margin, what is before it dimmed. */
export const viewStart = StateField.define({
  create: () => /** @type {import("@codemirror/view").DecorationSet} */ (Decoration.none),
  update(value, transaction) {
    let set = value.map(transaction.changes);
    for (const effect of transaction.effects) {
      if (!effect.is(setViewStart)) continue;
      const start = Math.min(effect.value, transaction.newDoc.length);
      set = start > 0 ? Decoration.set([outside.range(0, start), rule.range(start)], true) : Decoration.none;
    }
    return set;
  },
  provide: (field) => EditorView.decorations.from(field),
});

/**
 * Make the editor.
 * @param {HTMLElement} parent
 * @param {object} options
 * @param {(changes: import("@codemirror/state").ChangeSet) => void} options.typed the author changed the text
 * @param {(update: import("@codemirror/view").ViewUpdate) => void} options.updated
 * @param {(steps: "undo" | "redo") => void} options.history
 */
export function createEditor(parent, { typed, updated, history }) {
  const editable = new Compartment();
  const nonce = document.querySelector("meta[name=style-nonce]")?.getAttribute("content") ?? "";
  const view = new EditorView({
    parent,
    state: EditorState.create({
      extensions: [
        EditorView.cspNonce.of(nonce),
        EditorState.lineSeparator.of("\n"),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({
          "aria-label": "Story", tabindex: "0", spellcheck: "true", autocorrect: "on", autocapitalize: "sentences",
        }),
        EditorView.editorAttributes.of({ class: "story" }),
        authorship,
        viewStart,
        placeholder("Begin with a sentence, and let the model go on."),
        search({ top: true }),
        keymap.of([
          { key: "Mod-f", run: openSearchPanel, scope: "editor search-panel" },
          { key: "F3", run: findNext, shift: findPrevious, scope: "editor search-panel", preventDefault: true },
          ...searchKeymap.filter((one) => one.key === "Escape"),
          ...standardKeymap,
        ]),
        // The browser's own undo would only know the page; ours knows everything.
        Prec.highest(EditorView.domEventHandlers({
          beforeinput(event) {
            if (event.inputType !== "historyUndo" && event.inputType !== "historyRedo") return false;
            event.preventDefault();
            history(event.inputType === "historyUndo" ? "undo" : "redo");
            return true;
          },
        })),
        editable.of([]),
        EditorView.updateListener.of((update) => {
          for (const transaction of update.transactions) {
            if (transaction.docChanged && !transaction.annotation(foreign)) typed(transaction.changes);
          }
          updated(update);
        }),
      ],
    }),
  });

  return {
    view,

    /** @param {boolean} on */
    setReadOnly(on) {
      if (view.state.readOnly === on) return;
      view.dispatch({
        effects: editable.reconfigure(on ? [EditorState.readOnly.of(true),
          EditorView.contentAttributes.of({ "aria-readonly": "true" })] : []),
      });
    },

    /** @param {import("@codemirror/state").Extension} extension */
    addExtension(extension) {
      view.dispatch({ effects: StateEffect.appendConfig.of(extension) });
    },
  };
}

/**
 * Show a change that was made elsewhere.
 * @param {EditorView} view
 * @param {import("@codemirror/state").ChangeSet} changes
 * @param {{byModel?: boolean, caretAfter?: boolean}} [how] byModel: what is inserted gets the
 *   model's ink; caretAfter: a caret at the place of the insertion moves behind it
 */
export function showForeign(view, changes, { byModel = false, caretAfter = false } = {}) {
  /** @type {StateEffect<any>[]} */
  const effects = [];
  const { main } = view.state.selection;
  let caret = -1;
  changes.iterChanges((from, _to, start, end) => {
    if (byModel && end > start) effects.push(addModelInk.of({ from: start, to: end }));
    if (caretAfter && main.empty && main.head === from) caret = end;
  });
  view.dispatch({
    changes,
    effects,
    selection: caret < 0 ? undefined : EditorSelection.cursor(caret),
    annotations: [foreign.of(true), Transaction.remote.of(true), Transaction.addToHistory.of(false)],
  });
}

/**
 * Keeps the end of what is being written in sight, unless the reader scrolled away.
 * @param {EditorView} view
 */
export function createFollower(view) {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let following = false;
  let byReader = 0;
  const scroller = view.scrollDOM;
  const reader = () => {
    byReader = Date.now();
  };
  for (const kind of ["wheel", "touchmove", "pointerdown", "keydown"]) {
    scroller.addEventListener(kind, reader, { passive: true });
  }
  scroller.addEventListener("scroll", () => {
    if (Date.now() - byReader > 1000) return;
    following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 120;
  }, { passive: true });
  return {
    start() {
      following = !still.matches;
    },

    /** @param {number} place */
    follow(place) {
      if (!following) return;
      const margin = Math.round(scroller.clientHeight / 4);
      view.dispatch({ effects: EditorView.scrollIntoView(place, { y: "nearest", yMargin: margin }) });
    },
  };
}
