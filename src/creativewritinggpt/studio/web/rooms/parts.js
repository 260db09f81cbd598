// Parts that Train, Judge and Explain share: the list of runs, their logs, forms of settings.
import { html, nothing, render } from "/vendor/lit-html.js";
import { element } from "../ui.js";
import { isGoing, stateOf } from "./runs.js";

/** @typedef {import("./runs.js").Run} Run */
/** @typedef {{name: string, label: string, help: string, kind: string, optional: boolean, min: number | null, max: number | null, choices: string[], default: any, group: string}} FormField */

/**
 * @param {Run[]} runs
 * @param {string | null} chosen
 * @param {(id: string) => void} choose
 * @param {string} empty said where there are none
 */
export function runList(runs, chosen, choose, empty) {
  if (!runs.length) return html`<p class="quiet small">${empty}</p>`;
  return html`<ul class="run-list">${runs.map((run) => html`<li>
    <button type="button" aria-current=${run.id === chosen ? "true" : nothing} @click=${() => choose(run.id)}>
      <span class="run-name">${run.name}</span>
      <span class="small quiet run-state" data-state=${run.state}>${stateOf(run)}</span>
    </button></li>`)}</ul>`;
}

/**
 * Show the log of a run in a dialog.
 * @param {any} app
 * @param {Run} run
 */
export async function showLog(app, run) {
  const text = await app.api("GET", `/api/runs/${run.id}/log`);
  const box = element("dialog", { "aria-label": `Log of ${run.name}` });
  render(html`<h2>Log of ${run.name}</h2>
    <pre class="log" tabindex="0">${text || "It is empty."}</pre>
    <div class="buttons"><button type="button" class="line" @click=${() => box.close()}>Close</button></div>`, box);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  const log = box.querySelector("pre");
  if (log) log.scrollTop = log.scrollHeight;
}

/**
 * How a run ended badly, with the way out.
 * @param {any} app @param {Run} run
 */
export function failure(app, run) {
  if (run.state !== "failed") return nothing;
  return html`<div class="failure" role="alert">
    <p><strong>${sentence(run.message)}</strong>${run.advice ? html` ${sentence(run.advice)}` : nothing}</p>
    <button type="button" class="plain" @click=${() => void showLog(app, run)}>Show the log</button>
  </div>`;
}

/** @param {string} text @returns {string} with a capital and a full stop */
export function sentence(text) {
  const trimmed = text.trim();
  if (!trimmed) return "";
  const begun = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?…:]$/.test(begun) ? begun : `${begun}.`;
}

/** @param {any} app @param {Run} run */
export function stopButton(app, run) {
  if (!isGoing(run)) return nothing;
  const again = run.state === "stopping";
  return html`<button type="button" class="line" @click=${() => void app.api("POST", `/api/runs/${run.id}/stop`)}>
    ${again ? "Stop at once" : "Stop"}</button>`;
}

/**
 * The fields of a form in their groups; what differs from its default is marked.
 * @param {string} form its name, which begins the ids
 * @param {FormField[]} fields
 * @param {Record<string, any>} defaults
 * @param {Record<string, any>} values what was changed
 * @param {(name: string, value: any) => void} set undefined for the default again
 */
export function formFields(form, fields, defaults, values, set) {
  const groups = [...new Set(fields.map((field) => field.group))];
  return groups.map((group) => html`<fieldset class="settings"><legend>${group}</legend>
    ${fields.filter((field) => field.group === group).map((field) => formField(form, field, defaults, values, set))}
  </fieldset>`);
}

/**
 * @param {string} form
 * @param {FormField} field
 * @param {Record<string, any>} defaults
 * @param {Record<string, any>} values
 * @param {(name: string, value: any) => void} set
 */
function formField(form, field, defaults, values, set) {
  const usual = field.name in defaults ? defaults[field.name] : field.default;
  const changed = field.name in values;
  const value = changed ? values[field.name] : usual;
  const id = `${form}-${field.name}`;
  const take = (/** @type {any} */ given) => set(field.name, same(given, usual) ? undefined : given);
  const input = () => {
    if (field.kind === "bool") {
      return html`<input id=${id} type="checkbox" .checked=${Boolean(value)} aria-describedby=${`${id}-help`}
        @change=${(/** @type {any} */ event) => take(event.target.checked)}>`;
    }
    if (field.kind === "choice") {
      return html`<select id=${id} aria-describedby=${`${id}-help`}
        @change=${(/** @type {any} */ event) => take(event.target.value)}>
        ${field.choices.map((one) => html`<option .selected=${one === value}>${one}</option>`)}</select>`;
    }
    const number = field.kind === "int" || field.kind === "number";
    return html`<input id=${id} type=${number ? "number" : "text"} step=${field.kind === "int" ? "1" : "any"}
      min=${field.min ?? nothing} max=${field.max ?? nothing} .value=${written(value)}
      placeholder=${field.optional ? "as needed" : nothing} aria-describedby=${`${id}-help`}
      @change=${(/** @type {any} */ event) => {
        if (!event.target.checkValidity()) event.target.reportValidity();
        else take(number && event.target.value !== "" ? Number(event.target.value) : event.target.value);
      }}>`;
  };
  return html`<div class=${`setting ${field.kind}${changed ? " changed" : ""}`}>
    <label for=${id}>${field.label}</label>${input()}
    <span class="small quiet help" id=${`${id}-help`}>${field.help}
      ${changed ? html`<button type="button" class="plain" aria-label=${`Reset ${field.label}`}
        @click=${() => set(field.name, undefined)}>reset${usual === null ? "" : ` to ${written(usual)}`}</button>` : nothing}</span>
  </div>`;
}

/** @param {any} value @returns {string} as one would type it */
function written(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "object") return Object.entries(value).map(([name, number]) => `${name}=${number}`).join(", ");
  return String(value);
}

/** @param {any} a @param {any} b */
function same(a, b) {
  return written(a).replaceAll(" ", "") === written(b).replaceAll(" ", "");
}

/**
 * A table whose rows can be sorted by a click on a heading.
 * @param {{heads: {name: string, label: string, text?: boolean}[], rows: Record<string, any>[], by: {name: string, down: boolean}, sort: (name: string) => void, caption: string}} table
 */
export function sortableTable({ heads, rows, by, sort, caption }) {
  const order = (/** @type {any} */ value) => (value === null || value === undefined ? null : value);
  const sorted = [...rows].sort((first, second) => {
    const a = order(first[by.name]?.order ?? first[by.name]);
    const b = order(second[by.name]?.order ?? second[by.name]);
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1; // unknown ones last
    const less = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return by.down ? -less : less;
  });
  return html`<div class="wide" tabindex="0" role="region" aria-label=${caption}><table class="figures">
    <caption class="spoken">${caption}</caption>
    <thead><tr>${heads.map((head) => html`<th scope="col" class=${head.text ? "text" : nothing}
      aria-sort=${by.name === head.name ? (by.down ? "descending" : "ascending") : nothing}>
      <button type="button" class="plain" @click=${() => sort(head.name)}>${head.label}<span aria-hidden="true">${
        by.name === head.name ? (by.down ? " ↓" : " ↑") : ""}</span></button></th>`)}</tr></thead>
    <tbody>${sorted.map((row) => html`<tr>${heads.map((head, place) => {
      const value = row[head.name];
      const shown = value?.shown ?? value ?? "";
      return place === 0 ? html`<th scope="row" class="text">${shown}</th>`
        : html`<td class=${head.text ? "text" : nothing}>${shown}</td>`;
    })}</tr>`)}</tbody></table></div>`;
}
