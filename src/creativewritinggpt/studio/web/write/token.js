// What else could have stood at a place: probabilities before and after the samplers, what each of
// them took away, and another word in its place, on a branch of its own.
import { html, nothing, render } from "/vendor/lit-html.js";
import { createQuestion } from "./question.js";
import { alternatives, percent, readable, spokenAlternative, visible } from "./figures.js";

/** Names of the samplers. @type {Record<string, string>} */
export const SAMPLERS = {
  healing: "Fitting the word that was begun",
  barred: "Barred at this place",
  bias: "Word bias",
  penalties: "Penalties on repetition",
  no_repeat: "No repeated runs",
  dry: "DRY",
  temperature: "Temperature",
  top_k: "Top-k",
  typical_p: "Typical-p",
  top_p: "Top-p",
  min_p: "Min-p",
  xtc: "XTC",
};

/**
 * @param {any} app
 * @param {any} write
 */
export function attach(app, write) {
  const view = write.view;
  const box = document.createElement("dialog");
  box.className = "token-box";
  /** @type {any} */
  let token = null;
  /** @type {ReturnType<typeof alternatives>} */
  let list = [];
  let chosen = 0;
  let wanted = 0;
  let focus = false;
  /** @type {Element | null} */
  let from = null;
  let message = "";
  document.body.append(box);

  /**
   * Show the token at a place.
   * @param {number} at @param {boolean} focused whether the pop-up gets the focus
   */
  async function open(at, focused) {
    if (!view.state.doc.length) return app.status("The story is empty.", "info");
    if (!box.contains(document.activeElement)) from = document.activeElement;
    wanted = Math.max(0, Math.min(at, view.state.doc.length));
    focus = focused;
    token = null;
    list = [];
    message = "reading";
    draw();
    if (!box.open) {
      const held = document.activeElement;
      box.show(); // which takes the focus
      if (!focused && held instanceof HTMLElement) held.focus({ preventScroll: true });
    }
    place(wanted);
    if (focused) box.focus();
    try {
      await write.flush();
      const body = { revision: write.revision(), at: wanted };
      await question.ask(() => app.api("POST", "/api/token", body));
    } catch (error) {
      const { message: text, advice } = /** @type {any} */ (error);
      message = [text, advice].filter(Boolean).join(": ");
      draw();
    }
  }

  /** Close it; the focus goes back to where it was. */
  function close() {
    if (!box.open) return;
    const inside = box.contains(document.activeElement);
    box.close();
    question.forget();
    if (inside) {
      if (from instanceof HTMLElement && from.isConnected && from !== document.body) from.focus();
      else view.focus();
    }
  }

  const question = createQuestion(app, "token", (event) => {
    if (!box.open) return;
    if (event.revision !== write.revision()) return close();
    token = event;
    list = alternatives(event);
    chosen = Math.max(0, list.findIndex((one) => !one.here && one.takes !== null));
    message = "";
    draw();
    place(event.from);
    if (focus) /** @type {HTMLElement} */ (box.querySelector("[role=listbox]")).focus();
  }, (event) => {
    if (event.state !== "failed") return;
    message = [event.message, event.advice].filter(Boolean).join(": ");
    draw();
  });

  /**
   * Put the box under a place of the text, or over it where more room is, and never upon it: a long
   * one scrolls. What stands over the text stays in sight.
   * @param {number} at
   */
  function place(at) {
    const where = view.coordsAtPos(Math.min(at, view.state.doc.length)) ?? view.dom.getBoundingClientRect();
    const first = Math.max(8, view.scrollDOM.getBoundingClientRect().top + 4);
    const below = innerHeight - 8 - (where.bottom + 6);
    const above = where.top - 6 - first;
    box.style.maxHeight = "";
    const whole = box.getBoundingClientRect().height;
    const under = whole <= below || below >= above;
    box.style.maxHeight = `${Math.max(120, Math.min(whole, under ? below : above))}px`;
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(where.left, innerWidth - width - 8))}px`;
    box.style.top = `${under ? where.bottom + 6 : where.top - 6 - height}px`;
  }

  /** Put an alternative in the token's place. @param {number} index */
  async function take(index) {
    const one = list[index];
    if (!token || !one) return;
    if (one.here) return close();
    if (one.takes === null) {
      message = "This one is no text of its own; choose another.";
      return draw();
    }
    const { from: start, to, revision } = token;
    try {
      if (revision !== write.revision()) return close();
      await write.post("/api/story/replace", { from: start, to, text: one.takes });
    } catch (error) {
      const { message: text, advice } = /** @type {any} */ (error);
      message = [text, advice].filter(Boolean).join(": ");
      return draw();
    }
    close();
    view.focus();
    app.status(`“${readable(one.takes)}” stands there now, on a branch of its own; the old text is on the branch before.`);
  }

  /** @param {KeyboardEvent} event */
  function pressed(event) {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      return close();
    }
    if (!token || !(/** @type {Element} */ (event.target).closest("[role=listbox]"))) return;
    /** @type {Record<string, number>} */
    const keys = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, Home: 0, End: list.length - 1 };
    if (event.key in keys) {
      event.preventDefault();
      chosen = Math.max(0, Math.min(list.length - 1, keys[event.key]));
      draw();
      box.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      const next = event.key === "ArrowLeft" ? token.from - 1 : token.to;
      if (next >= 0 && next < view.state.doc.length) void open(next, true);
    } else if (event.key === "Enter") {
      event.preventDefault();
      void take(chosen);
    }
  }

  /** @param {number | null} probability */
  const share = (probability) => (probability === null ? "–" : `${percent(probability).replace("less than ", "<")} %`);

  function draw() {
    // A token may be a part of a character.
    const text = token?.text.includes("\ufffd") ? view.state.sliceDoc(token.from, token.to) : token?.text ?? "";
    const word = readable(text);
    box.setAttribute("aria-label", token ? `Alternatives of “${word}”` : "Alternatives");
    render(html`
      <div class="token-head">
        <strong>${token ? visible(text) : "…"}</strong>
        ${token ? html`<span class="quiet">${percent(token.probability)} %, rank ${token.rank.toLocaleString("en")},
          entropy ${token.entropy.toFixed(1)} nats</span>` : nothing}
        <button type="button" class="token-close" aria-label="Close" @click=${close}>×</button>
      </div>
      <p class="quiet" role="status" ?hidden=${!message}>${message}</p>
      ${token ? html`
        <div class="token-heads" aria-hidden="true"><span>instead</span><span>model</span><span>drawn</span></div>
        <ul role="listbox" tabindex="0" aria-label="Alternatives" aria-activedescendant=${`alternative-${chosen}`}>
          ${list.map((one, at) => html`
            <li role="option" id=${`alternative-${at}`} aria-selected=${at === chosen ? "true" : "false"}
              aria-disabled=${one.here || one.takes === null ? "true" : "false"}
              aria-label=${spokenAlternative(one)} @click=${() => take(at)}>
              <span class="token-text">${visible(one.text)}${one.here ? html` <span class="quiet">here</span>` : nothing}</span>
              <span class="token-share">${share(one.before)}</span>
              <span class="token-share">${share(one.after)}</span>
            </li>`)}
        </ul>
        <details ?open=${token.removed.length > 0}>
          <summary>What the samplers took away</summary>
          ${token.removed.length ? html`<ul class="token-removed">${token.removed.map((/** @type {any} */ one) => html`
            <li><b>${SAMPLERS[one.sampler] ?? one.sampler}</b>: ${one.count.toLocaleString("en")}
              ${one.count === 1 ? "token" : "tokens"}, together ${percent(one.mass)} %
              ${one.tokens.length ? html`<span class="quiet">(${one.tokens.slice(0, 5).map(
                (/** @type {any} */ t) => visible(t.text)).join("  ")}${one.count > 5 ? " …" : ""})</span>` : nothing}
            </li>`)}</ul>` : html`<p class="quiet">Nothing.</p>`}
          <p class="quiet">Probabilities ${token.settings}${token.xtc ? "; XTC acts by chance, and is shown as it acts here" : ""}.
            ${token.by === "writer" ? "You wrote this word." : ""}</p>
        </details>
        <p class="quiet">Enter takes one, on a branch of its own. Arrows left and right go to the tokens beside it.</p>` : nothing}`, box);
  }

  box.tabIndex = -1;
  box.addEventListener("keydown", pressed);
  box.addEventListener("cancel", (event) => {
    event.preventDefault();
    close();
  });
  document.addEventListener("pointerdown", (event) => {
    if (box.open && !box.contains(/** @type {Node} */ (event.target))) close();
  });
  view.scrollDOM.addEventListener("scroll", () => box.open && place(token ? token.from : wanted), { passive: true });

  return {
    open,
    close,
    isOpen: () => box.open,
    /** Where the token stands, and the first alternative that can be taken. */
    shown: () => token && { from: token.from, to: token.to, takes: list.find((one) => !one.here && one.takes !== null)?.takes },
    /** Close where something is typed or changed. */
    changed() {
      if (box.open && !box.contains(document.activeElement)) close();
    },
  };
}
