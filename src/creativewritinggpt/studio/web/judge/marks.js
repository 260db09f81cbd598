// Marks of copied passages in the editor of the room Write; they move with the text.
import { Decoration, EditorView, StateEffect, StateField } from "/vendor/codemirror.js";

/** @typedef {{from: number, to: number, copied: any}} Place */

const setMarks = /** @type {import("@codemirror/state").StateEffectType<Place[]>} */ (StateEffect.define());

const field = StateField.define({
  create: () => Decoration.none,
  update(marks, transaction) {
    let next = marks.map(transaction.changes);
    for (const effect of transaction.effects) {
      if (!effect.is(setMarks)) continue;
      const places = [...effect.value].sort((a, b) => a.from - b.from || a.to - b.to);
      next = Decoration.set(places.map(({ from, to, copied }) => Decoration.mark({
        class: "copied-words",
        attributes: { title: `${copied.words} words of the training text: ${copied.document.source}` },
      }).range(from, to)));
    }
    return next;
  },
  provide: (marks) => EditorView.decorations.from(marks),
});

const look = EditorView.baseTheme({
  ".copied-words": { textDecoration: "underline wavy var(--warn)", textDecorationSkipInk: "none", textUnderlineOffset: "0.2em" },
});

/** @type {WeakSet<object>} */
const equipped = new WeakSet();

/** @param {any} write what the room Write shares @param {Place[]} places */
export function markPlaces(write, places) {
  if (!equipped.has(write.view)) {
    write.addExtension([field, look]);
    equipped.add(write.view);
  }
  write.view.dispatch({ effects: setMarks.of(places) });
}

/** @param {any} view */
export function clearMarks(view) {
  if (equipped.has(view)) view.dispatch({ effects: setMarks.of([]) });
}

/**
 * Where the runs of words stand now: where they were found, else the nearest place with that text.
 * @param {string} text of the editor
 * @param {{from: number, to: number, text: string}[]} runs
 * @returns {Place[]} those that still stand in it
 */
export function placesNow(text, runs) {
  return runs.flatMap((copied) => {
    const { from, to } = copied;
    if (text.slice(from, to) === copied.text) return [{ from, to, copied }];
    const before = text.lastIndexOf(copied.text, from);
    const after = text.indexOf(copied.text, from);
    const found = before < 0 || (after >= 0 && after - from < from - before) ? after : before;
    return found < 0 ? [] : [{ from: found, to: found + copied.text.length, copied }];
  });
}
