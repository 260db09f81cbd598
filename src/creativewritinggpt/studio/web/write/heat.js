// Heat: figures of the model's and the author's words over the text, read again after an edit.
import { Decoration, RangeSetBuilder, StateEffect, ViewPlugin, EditorView } from "/vendor/codemirror.js";
import { html, render } from "/vendor/lit-html.js";
import { createQuestion } from "./question.js";
import { FigureStore, MEASURES, percent, spoken, step, wordsOf } from "./figures.js";

/** @typedef {import("./figures.js").Figure} Figure */

const IDLE = 700; // ms without a change before figures are read again
const SCROLLED = 150;
const AROUND = 300; // characters around what is visible, so that words are whole
const KEPT = "heat";

/** Choices that are kept from visit to visit; heat itself is off at first. */
function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "{}");
  } catch {
    return {};
  }
}

/**
 * @param {any} app
 * @param {any} write what the room offers: its view, revision, panels and commands
 * @param {{open: (at: number, focus: boolean) => void}} token the pop-up of a token
 */
export function attach(app, write, token) {
  /** @type {EditorView} */
  const view = write.view;
  const store = new FigureStore();
  const before = kept();
  const chosen = {
    on: false,
    measure: MEASURES[before.measure] ? before.measure : "probability",
    unit: before.unit === "token" ? "token" : "word",
    by: before.by === "product" ? "product" : "minimum",
  };
  /** @type {Figure | null} */
  let current = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let reading = false;
  let failed = "";
  let asked = ""; // text and measure of the last question
  let answered = ""; // those of the last one that was answered whole
  let missed = false; // whether a part of the answer could not be shown
  const redraw = StateEffect.define();

  /** @param {number} from @param {number} to */
  const slice = (from, to) => view.state.sliceDoc(from, to);

  /** Figures that touch a range, as chosen. @param {number} from @param {number} to */
  function figures(from, to) {
    if (chosen.unit === "token") return store.between(from, to);
    const tokens = store.between(Math.max(0, from - AROUND), to + AROUND);
    const words = wordsOf(tokens, slice, /** @type {"minimum" | "product"} */ (chosen.by));
    return words.filter((word) => word.to > from && word.from < to);
  }

  /** @type {Map<string, any>} */
  const marks = new Map();
  /** @param {string} name */
  function mark(name) {
    if (!marks.has(name)) marks.set(name, Decoration.mark({ class: name }));
    return marks.get(name);
  }

  /** @param {EditorView} shown */
  function decorations(shown) {
    if (!chosen.on) return Decoration.none;
    const measure = MEASURES[chosen.measure];
    /** @type {RangeSetBuilder<Decoration>} */
    const builder = new RangeSetBuilder();
    let last = 0;
    for (const range of shown.visibleRanges) {
      for (const figure of figures(range.from, range.to)) {
        const text = shown.state.sliceDoc(figure.from, figure.to);
        const from = Math.max(last, figure.from + text.length - text.trimStart().length);
        const to = figure.to - (text.length - text.trimEnd().length);
        const at = step(measure, measure.value(figure));
        if (from >= to || to > shown.state.doc.length) continue;
        const here = current && figure.from === current.from ? " heat-current" : "";
        const kind = chosen.measure === "difference" ? "heat-d" : "heat-";
        if (at === null && !here) continue;
        const old = figure.fresh ? "" : " heat-old";
        builder.add(from, to, mark(`heat ${at === null ? "" : kind + at}${old}${here}`));
        last = to;
      }
    }
    return builder.finish();
  }

  const plugin = ViewPlugin.fromClass(
    class {
      /** @param {EditorView} shown */
      constructor(shown) {
        this.decorations = decorations(shown);
      }

      /** @param {import("/vendor/codemirror.js").ViewUpdate} update */
      update(update) {
        if (update.docChanged) follow(update);
        const asked = update.transactions.some((one) => one.effects.some((effect) => effect.is(redraw)));
        if (update.docChanged || update.viewportChanged || asked) {
          this.decorations = decorations(update.view);
        }
        if (chosen.on && update.viewportChanged && !update.docChanged) later(SCROLLED);
      }
    },
    { decorations: (value) => value.decorations },
  );

  /** Follow a change of the text. @param {import("/vendor/codemirror.js").ViewUpdate} update */
  function follow(update) {
    const blank = /^\s*$/;
    update.changes.iterChanges((fromA, toA, fromB, toB, inserted) => {
      const left = update.startState.sliceDoc(Math.max(0, fromA - 1), fromA);
      const text = inserted.sliceString(0, 1) || update.state.sliceDoc(toB, toB + 1);
      store.change(fromB, fromB + toA - fromA, toB - fromB, !blank.test(left) && !blank.test(text));
    });
    current = listed = null;
    if (chosen.on) later(IDLE);
  }

  /** Ask for figures after a while. @param {number} wait */
  function later(wait) {
    clearTimeout(timer);
    timer = setTimeout(() => void ask(), wait);
  }

  /** Ask for the figures of what is visible, then the rest, unless they are there. */
  async function ask() {
    if (!chosen.on) return;
    const { from, to } = visible();
    const whole = store.covers(0, view.state.doc.length);
    const based = chosen.measure !== "difference" || store.between(from, to).every((one) => one.base !== null);
    const known = answered === `${write.revision()} ${chosen.measure}` && !write.dirty?.();
    if (!view.state.doc.length || known || (based && (whole || (reading && store.covers(from, to))))) {
      draw();
      return;
    }
    try {
      await write.flush(); // what was typed and the studio does not have yet
      const body = { revision: write.revision(), from, to, measure: chosen.measure };
      reading = true;
      missed = false;
      failed = "";
      asked = `${body.revision} ${body.measure}`;
      await question.ask(() => app.api("POST", "/api/heat", body));
    } catch (error) {
      const { status, message, advice } = /** @type {any} */ (error);
      reading = false;
      if (status === 409) return later(IDLE);
      failed = [message, advice].filter(Boolean).join(": ");
      app.status(message, "error", advice);
    }
    draw();
  }

  function visible() {
    const ranges = view.visibleRanges;
    if (!ranges.length) return { from: 0, to: view.state.doc.length };
    return { from: ranges[0].from, to: ranges[ranges.length - 1].to };
  }

  /** Show what has changed, in the text and in the panel. */
  function draw() {
    view.dispatch({ effects: redraw.of(null) });
    panel();
  }

  /** @type {number} */
  let frame = 0;
  function drawSoon() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }

  const question = createQuestion(app, "heat", (event) => {
    // Figures of another text than the one that is here are not shown.
    const same = event.revision === write.revision() && event.length === view.state.doc.length;
    if (!same || write.dirty?.()) {
      missed = true;
      return;
    }
    store.add(event.tokens);
    listed = null;
    drawSoon();
  }, (event) => {
    if (["queued", "running"].includes(event.state)) return;
    reading = false;
    if (event.state === "failed") failed = [event.message, event.advice].filter(Boolean).join(": ");
    if (event.state === "done" && !missed) answered = asked;
    else if (chosen.on && event.state === "done") later(IDLE);
    drawSoon();
  });
  write.onStory((/** @type {any} */ _story, /** @type {any} */ event) => {
    const patch = event.patch ?? (event.kind === "state" ? { id: null } : {});
    if (["memory", "note", "lore", "id"].some((name) => name in patch)) {
      store.age(0);
      answered = "";
      listed = null;
      if (chosen.on) later(IDLE);
      drawSoon();
    }
  });
  let model = "";
  app.events.on("model", (/** @type {any} */ event) => {
    const now = JSON.stringify([event.name, event.adapters, event.state === "ready"]);
    if (now === model) return;
    model = now;
    store.clear();
    answered = "";
    current = listed = null;
    if (chosen.on) later(IDLE);
    drawSoon();
  });

  const element = document.createElement("div");
  element.className = "heat-panel";

  /** @param {Partial<typeof chosen>} change */
  function choose(change) {
    Object.assign(chosen, change);
    const { measure, unit, by } = chosen;
    localStorage.setItem(KEPT, JSON.stringify({ measure, unit, by }));
    current = listed = null;
    if (change.measure) void ask();
    draw();
  }

  function panel() {
    const measure = MEASURES[chosen.measure];
    const kind = chosen.measure === "difference" ? "heat-d" : "heat-";
    /** @param {Event} event */
    const value = (event) => /** @type {HTMLSelectElement} */ (event.target).value;
    render(html`
      <div class="heat-choices">
        <label>Show
          <select @change=${(/** @type {Event} */ e) => choose({ measure: value(e) })}>
            ${Object.values(MEASURES).map((one) => html`
              <option value=${one.name} ?selected=${one.name === chosen.measure}>${one.label}</option>`)}
          </select>
        </label>
        <label>by
          <select @change=${(/** @type {Event} */ e) => {
            const [unit, by] = value(e).split(" ");
            choose(by ? { unit, by } : { unit });
          }}>
            <option value="word minimum" ?selected=${chosen.unit === "word" && chosen.by === "minimum"}>word (its least likely part)</option>
            <option value="word product" ?selected=${chosen.unit === "word" && chosen.by === "product"}>word (all its parts)</option>
            <option value="token" ?selected=${chosen.unit === "token"}>token</option>
          </select>
        </label>
      </div>
      <p class="quiet">${measure.help}</p>
      <ul class="heat-legend" aria-label="Legend">
        ${measure.legend.map((text, at) => html`
          <li><span class=${`heat ${kind}${at}`} aria-hidden="true">word</span> ${text}</li>`)}
        <li><span class="heat heat-2 heat-old" aria-hidden="true">word</span> from before a change</li>
      </ul>
      ${slider()}
      <p class="quiet" ?hidden=${!failed}>${failed}</p>
      <p class="quiet">A click on a word shows what could stand there instead.</p>`, element);
  }

  /** @type {Figure[] | null} */
  let listed = null;
  /** All figures, for the slider: made when it has the focus, kept until they change. */
  function all() {
    listed ??= figures(0, view.state.doc.length).filter(
      (one) => chosen.unit === "token" || slice(one.from, one.to).trim());
    return listed;
  }

  function slider() {
    const count = current ? all().length : store.tokens.length;
    const shown = current;
    const place = shown ? all().findIndex((one) => one.from === shown.from) : -1;
    const many = `${count.toLocaleString("en")} tokens; the arrow keys go from one to the next`;
    const text = shown ? spoken(slice(shown.from, shown.to), shown, MEASURES[chosen.measure])
      : count ? many : reading ? "reading" : "none yet";
    return html`
      <div class="heat-slider" role="slider" tabindex="0" aria-label="Figures"
        aria-orientation="horizontal" aria-valuemin=${count ? 1 : 0} aria-valuemax=${count}
        aria-valuenow=${Math.max(place + 1, count ? 1 : 0)} aria-valuetext=${text}
        @keydown=${move} @focus=${enter} @blur=${leave}>${text}</div>`;
  }

  function enter() {
    const list = all();
    if (!list.length || current) return;
    const caret = view.state.selection.main.head;
    current = list.find((one) => one.to > caret) ?? list[list.length - 1];
    reveal();
  }

  function leave() {
    current = null;
    draw();
  }

  /** @param {KeyboardEvent} event */
  function move(event) {
    const list = all();
    if (!list.length) return;
    const place = Math.max(0, list.findIndex((one) => one.from === current?.from));
    const last = list.length - 1;
    /** @type {Record<string, number>} */
    const keys = {
      ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1,
      PageDown: place + 10, PageUp: place - 10, Home: 0, End: last,
    };
    if (event.key === "Enter" && current) {
      event.preventDefault();
      token.open(current.to - 1, true);
      return;
    }
    if (!(event.key in keys) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    current = list[Math.min(last, Math.max(0, keys[event.key]))];
    reveal();
  }

  function reveal() {
    if (current) view.dispatch({ effects: EditorView.scrollIntoView(current.from, { y: "nearest", yMargin: 60 }) });
    draw();
  }

  const side = write.panel("heat", "Heat", element, { quiet: true });
  /** @param {boolean} on */
  function turn(on) {
    if (chosen.on === on) return;
    chosen.on = on;
    button.setAttribute("aria-pressed", String(on));
    if (on) void ask();
    else {
      clearTimeout(timer);
      if (question.job()) app.api("DELETE", `/api/jobs/${question.job()}`).catch(() => {});
      reading = false;
    }
    draw();
  }
  const button = write.command("Heat", () => {
    turn(!chosen.on);
    if (chosen.on) side.open();
    else side.close();
  }, [], { title: "How likely each word was, over the text" });
  button.setAttribute("aria-pressed", "false");
  // The panel may be closed, or give way to another, while the heat stays on.
  side.onToggle((/** @type {boolean} */ open) => open && turn(true));
  write.addExtension(plugin);
  panel();

  return {
    store,
    on: () => chosen.on,
    /** A short line on a place, for other panels. @param {number} at */
    said(at) {
      const [one] = figures(at, at + 1);
      return one ? `${percent(Math.exp(one.logprob))} %` : "";
    },
  };
}
