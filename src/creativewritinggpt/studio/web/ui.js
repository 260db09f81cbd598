// Parts of the page that several rooms use, on top of lit-html.
import { html, live, nothing, render } from "/vendor/lit-html.js";

/**
 * Load the style sheet of a room; settles when it is there.
 * @param {string} href
 * @returns {Promise<void>}
 */
export function loadStyle(href) {
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = href;
  return new Promise((go) => {
    link.onload = () => go();
    link.onerror = () => go(); // the room is usable without
    document.head.append(link);
  });
}

/**
 * An element with attributes and content.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | boolean | null>} [attributes] false and null leave one out
 * @param {...(Node | string)} content
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...content);
  return made;
}

/** @param {number} number @returns {string} 12,345 */
export function grouped(number) {
  return number.toLocaleString("en");
}

/** @param {number} count @param {string} noun @returns {string} `1 word`, `2 words` */
export function counted(count, noun) {
  return `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/**
 * Call a function once after calls have ceased.
 * @template {any[]} A
 * @param {(...values: A) => unknown} work
 * @param {number} wait milliseconds
 * @returns {((...values: A) => void) & {now: () => void}} `now` makes a waiting call at once
 */
export function later(work, wait) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {A | undefined} */
  let kept;
  const go = () => {
    clearTimeout(timer);
    timer = undefined;
    const values = kept;
    kept = undefined;
    if (values) work(...values);
  };
  return Object.assign((/** @type {A} */ ...values) => {
    kept = values;
    clearTimeout(timer);
    timer = setTimeout(go, wait);
  }, { now: go });
}

/**
 * A declared setting, as `GET /api/state` lists it.
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {string} [help]
 * @property {string} kind number, int, bool, text or list
 * @property {number | null} [min]
 * @property {number | null} [max]
 * @property {number | null} [step]
 * @property {any} [off] value that switches it off
 * @property {string | null} [unit]
 * @property {string[]} [choices]
 */

/**
 * A slider with a number field, unit, off value and the mark of a changed one.
 * Reset by a double click or by Delete on the slider.
 * @param {Field} field
 * @param {number | null} value
 * @param {{changed?: boolean, note?: string, set: (value: number) => void, reset: () => void}} options
 */
export function slider(field, value, { changed = false, note = "", set, reset }) {
  const min = field.min ?? 0;
  const max = field.max ?? 1;
  const step = field.step ?? (field.kind === "int" ? 1 : 0.01);
  const shown = value ?? field.off ?? min;
  const isOff = field.off !== undefined && field.off !== null && Number(shown) === Number(field.off);
  const take = (/** @type {Event} */ event) => {
    const input = /** @type {HTMLInputElement} */ (event.target);
    if (input.value === "" || !input.checkValidity()) {
      input.reportValidity();
      return;
    }
    set(Number(input.value));
  };
  const key = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    reset();
  };
  const show = (/** @type {Event} */ event) => {
    const input = /** @type {HTMLInputElement} */ (event.target);
    const number = input.parentElement?.querySelector(".number input");
    if (number instanceof HTMLInputElement) number.value = input.value;
  };
  const state = [isOff ? "off" : "", changed ? "changed from the preset" : "", note].filter(Boolean).join(" · ");
  return html`<div class=${changed ? "slider changed" : "slider"} title=${field.help ?? nothing} @dblclick=${reset}>
    <span class="name">${field.label}</span>
    <span class="number">
      <input type="number" aria-label=${field.label} .value=${live(String(shown))} min=${field.min ?? nothing}
        max=${field.max ?? nothing} step="any" @change=${take} @dblclick=${(/** @type {Event} */ e) => e.stopPropagation()}>
      ${field.unit ? html`<span class="unit">${field.unit}</span>` : nothing}
    </span>
    <input type="range" aria-label=${`${field.label}, slider`} aria-valuetext=${isOff ? "off" : nothing}
      min=${min} max=${max} step=${step} .value=${live(String(shown))} @input=${show} @change=${take} @keydown=${key}>
    ${state ? html`<span class="state">${state}</span>` : nothing}
  </div>`;
}

/**
 * Ask in a dialog.
 * @template T
 * @param {string} title
 * @param {unknown} content a lit template or text
 * @param {{label: string, value: T, primary?: boolean}[]} choices
 * @returns {Promise<T | null>} null where it was closed
 */
export function ask(title, content, choices) {
  const box = element("dialog", { "aria-label": title });
  document.body.append(box);
  return new Promise((go) => {
    /** @type {T | null} */
    let chosen = null;
    render(html`<h2>${title}</h2><div class="content">${content}</div>
      <div class="buttons">${choices.map((choice) => html`<button type="button"
        class=${choice.primary ? "primary" : "line"}
        @click=${() => { chosen = choice.value; box.close(); }}>${choice.label}</button>`)}</div>`, box);
    box.addEventListener("close", () => {
      box.remove();
      go(chosen);
    });
    box.showModal();
  });
}
