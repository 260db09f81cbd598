// Why a word is there: what it came from, over the text itself, and how far that can be trusted.
import { Decoration, RangeSetBuilder, StateEffect, ViewPlugin } from "/vendor/codemirror.js";
import { html, nothing, render } from "/vendor/lit-html.js";
import { createQuestion } from "./question.js";
import { LEAST, percent, readable, signed, strength, wordAt } from "./figures.js";

const ASK = "Put the caret on a word, or select some, and ask.";
const NAMED = 6; // pieces that are named, for and against
const PARTS = /** @type {Record<string, string>} */ ({ memory: "Memory", lore: "Lore", note: "Author’s note" });

/**
 * @param {any} app
 * @param {any} write
 */
export function attach(app, write) {
  const view = write.view;
  const redraw = StateEffect.define();
  /** @type {any} */
  let answer = null;
  let unit = "word";
  let message = ASK;
  /** @type {{from: number, to: number} | null} */
  let target = null;
  let old = false; // whether the text has changed since

  /** @type {Map<string, any>} */
  const marks = new Map();
  /** @param {string} name */
  const mark = (name) => {
    if (!marks.has(name)) marks.set(name, Decoration.mark({ class: name }));
    return marks.get(name);
  };

  function decorations() {
    if (!target || !side.isOpen()) return Decoration.none;
    /** @type {RangeSetBuilder<Decoration>} */
    const builder = new RangeSetBuilder();
    const scores = old || !answer ? [] : answer.scores;
    const largest = Math.max(0, ...scores.map((/** @type {number[]} */ one) => Math.abs(one[2])));
    for (const [from, to, score] of scores) {
      const step = strength(score, largest);
      if (step && from < to) builder.add(from, to, mark(`why why-${step < 0 ? "against" : "for"}-${Math.abs(step)}`));
    }
    if (!old && target.from < target.to) builder.add(target.from, target.to, mark("why-target"));
    return builder.finish();
  }

  const plugin = ViewPlugin.fromClass(
    class {
      constructor() {
        this.decorations = Decoration.none;
      }

      /** @param {import("/vendor/codemirror.js").ViewUpdate} update */
      update(update) {
        if (update.docChanged && target) {
          old = true;
          queueMicrotask(draw);
        }
        if (update.docChanged || update.transactions.some((one) => one.effects.some((e) => e.is(redraw)))) {
          this.decorations = decorations();
        }
      }
    },
    { decorations: (value) => value.decorations },
  );

  /** Ask about the selection, or the word at the caret. @param {boolean} [again] about the same words */
  async function ask(again = false) {
    if (!again || !target) {
      const { from, to, head } = view.state.selection.main;
      const [start, end] = from < to ? [from, to] : wordAt(view.state.doc.toString(), head);
      target = { from: start, to: end };
    }
    answer = null;
    old = false;
    question.forget();
    if (target.from >= target.to) {
      message = "There is no word here. Put the caret on one, or select some.";
      return show();
    }
    message = "reading";
    show();
    try {
      await write.flush();
      const body = { revision: write.revision(), ...target, unit };
      await question.ask(() => app.api("POST", "/api/why", body));
    } catch (error) {
      const { message: text, advice } = /** @type {any} */ (error);
      message = [text, advice].filter(Boolean).join(": ");
      show();
    }
  }

  function show() {
    draw();
    view.dispatch({ effects: redraw.of(null) });
  }

  const question = createQuestion(app, "why", (event) => {
    if (event.revision !== write.revision()) old = true;
    answer = event;
    message = "";
    show();
  }, (event) => {
    if (!["failed", "stopped"].includes(event.state)) return;
    message = [event.message || "stopped", event.advice].filter(Boolean).join(": ");
    show();
  });

  /** Hand over to the room Explain: every method, with pictures. */
  async function full() {
    if (!target) return;
    try {
      await write.post("/api/explain", { ...target });
      await app.show("explain");
    } catch (error) {
      const { message: text, advice } = /** @type {any} */ (error);
      app.status(text, "error", advice);
    }
  }

  /** @param {any[]} scores @param {number} sign */
  function named(scores, sign) {
    const order = scores.filter((one) => one[2] * sign > LEAST).sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
    return order.slice(0, NAMED);
  }

  /** @param {string} title @param {any[]} scores */
  function list(title, scores) {
    if (!scores.length) return nothing;
    return html`<h3>${title}</h3><ul class="why-list">${scores.map(([from, to, score]) => html`
      <li><button type="button" class="link" @click=${() => go(from, to)}>${readable(view.state.sliceDoc(from, to))}</button>
        <span class="number">${signed(score)}</span></li>`)}</ul>`;
  }

  /** @param {number} from @param {number} to */
  function go(from, to) {
    view.dispatch({ selection: { anchor: from, head: to }, scrollIntoView: true });
    view.focus();
  }

  const element = document.createElement("div");
  element.className = "why-panel";

  function draw() {
    const text = target && !old ? view.state.sliceDoc(target.from, target.to).trim() : answer?.target?.text ?? "";
    const units = [["word", "words"], ["token", "tokens"], ["sentence", "sentences"]];
    render(html`
      <div class="why-choices">
        <button type="button" class="why-ask" @click=${() => ask()}>Why this word?</button>
        <fieldset><legend>Take out</legend>${units.map(([name, label]) => html`
          <label><input type="radio" name="why-unit" value=${name} .checked=${unit === name}
            @change=${() => { unit = name; if (target) void ask(true); }}> ${label}</label>`)}</fieldset>
      </div>
      <p role="status" class="quiet" ?hidden=${!message}>${message}</p>
      ${old ? html`<p class="quiet">The text was changed since; ask again.</p>` : nothing}
      ${answer && !message ? html`
        <p class="why-said"><strong>${text}</strong> had a probability of ${percent(answer.probability)} %
          (rank ${answer.rank.toLocaleString("en")})${answer.others.length ? html`; others:
          ${answer.others.map((/** @type {any} */ one) => `“${readable(one.text)}” ${percent(one.probability)} %`).join(", ")}` : nothing}.</p>
        ${answer.scores.length || answer.in_view.length ? html`
          ${old ? nothing : html`${list("For it", named(answer.scores, 1))}
            ${list("Against it", named(answer.scores, -1))}`}
          ${!named(answer.scores, 1).length && !named(answer.scores, -1).length
            ? html`<p>None of the words just before it matters by itself.</p>` : nothing}
          ${answer.in_view.length ? html`<h3>Also in view</h3><ul class="why-list">${answer.in_view.map((/** @type {any} */ part) => html`
            <li>${PARTS[part.part] ?? part.part}
              ${part.pieces.length ? html`<span class="number">${signed(part.score)}</span>`
                : html`<span class="quiet">not among what was taken out</span>`}</li>`)}</ul>` : nothing}
          <p class="quiet">${answer.method} In nats: what it loses without each of them; over the text, a
            line below what speaks for it, a broken line below what speaks against it.</p>
          ${answer.trust ? html`<p class="why-trust"><b>How far to trust it.</b> ${answer.trust.sentence}</p>` : nothing}`
          : html`<p>Nothing stands before it.</p>`}
        <button type="button" @click=${full}>Full explanation</button>` : nothing}`, element);
  }

  const side = write.panel("why", "Why", element, { quiet: true });
  side.onToggle((/** @type {boolean} */ open) => {
    if (open) return;
    target = answer = null;
    old = false;
    message = ASK;
    show();
  });
  write.command("Why", () => {
    side.open();
    return ask();
  }, [], { title: "What the word at the caret, or the selection, came from" });
  write.addExtension(plugin);
  draw();
  return { ask };
}
