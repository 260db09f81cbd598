// What the page Write shows of the model's reasons: heat, alternatives of a token, why, compare.
import { EditorView, Prec, keymap } from "/vendor/codemirror.js";
import { attach as attachCompare } from "./compare.js";
import { attach as attachHeat } from "./heat.js";
import { attach as attachToken } from "./token.js";
import { attach as attachWhy } from "./why.js";

const STYLE = "/write/insight.css";

/**
 * @param {any} app
 * @param {any} write what the room offers
 */
export function attach(app, write) {
  if (!document.querySelector(`link[href="${STYLE}"]`)) {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = STYLE;
    document.head.append(link);
  }
  const token = attachToken(app, write);
  const heat = attachHeat(app, write, token);
  const why = attachWhy(app, write);
  const compare = attachCompare(app, write);

  /** The pop-up of the token at the caret. */
  function atCaret() {
    const { from, head, empty } = write.view.state.selection.main;
    const text = write.view.state.doc;
    // Behind a word, the word: what stands before the caret is what was just written.
    const behind = empty && head > 0 && (head === text.length || /\s/.test(text.sliceString(head, head + 1)));
    void token.open(behind ? head - 1 : from, true);
    return true;
  }

  write.addExtension([
    Prec.highest(keymap.of([
      { key: "Mod-.", run: atCaret },
      {
        key: "Escape",
        run: () => {
          if (!token.isOpen()) return false;
          token.close();
          return true;
        },
      },
    ])),
    EditorView.updateListener.of((/** @type {any} */ update) => {
      if (update.docChanged) token.changed();
    }),
    EditorView.domEventHandlers({
      click(event, view) {
        const asked = heat.on() || event.ctrlKey || event.metaKey;
        if (!asked || event.button !== 0 || event.detail > 1 || !view.state.selection.main.empty) return false;
        const at = view.posAtCoords({ x: event.clientX, y: event.clientY });
        if (at !== null) void token.open(at, false);
        return false;
      },
    }),
  ]);
  app.keys?.add("Mod-.", "What could stand at the caret", null);
  return Object.assign(write, { insight: { heat, token, why, compare } }).insight;
}
