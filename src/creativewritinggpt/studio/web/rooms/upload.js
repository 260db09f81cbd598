// Files that the writer drops or chooses, sent to the studio.
import { html, nothing } from "/vendor/lit-html.js";
import { size } from "./runs.js";

export const MOST_BYTES = 500_000_000;

/** @typedef {{name: string, bytes: number, id: string | null, error: string | null}} Upload */

/**
 * @param {any} app
 * @param {Iterable<File>} files
 * @param {Upload[]} list gets an entry for each
 * @param {() => void} changed called after each change of the list
 */
export async function uploadAll(app, files, list, changed) {
  const fresh = [...files].map((file) => {
    /** @type {Upload} */
    const entry = { name: file.name, bytes: file.size, id: null, error: null };
    list.push(entry);
    return { file, entry };
  });
  changed();
  for (const { file, entry } of fresh) {
    if (file.size > MOST_BYTES) {
      entry.error = `has ${size(file.size)}, and the studio takes ${size(MOST_BYTES)}: train on it in the terminal with cwgpt train`;
    } else if (file.size === 0) {
      entry.error = "is empty, or a folder: give its files";
    } else {
      try {
        const path = `/api/uploads?name=${encodeURIComponent(file.name)}`;
        entry.id = (await app.api("PUT", path, file)).id;
      } catch (/** @type {any} */ error) {
        entry.error = [error.message, error.advice].filter(Boolean).join(": ");
      }
    }
    changed();
  }
}

/**
 * Where files are dropped or chosen, and what was.
 * @param {object} options
 * @param {Upload[]} options.list
 * @param {(files: Iterable<File>) => void} options.add
 * @param {(entry: Upload) => void} options.remove
 * @param {string} options.accept
 * @param {string} options.hint
 */
export function dropZone({ list, add, remove, accept, hint }) {
  const over = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    /** @type {HTMLElement} */ (event.currentTarget).classList.toggle("over", event.type === "dragover");
  };
  return html`<div class="drop" @dragover=${over} @dragleave=${over} @drop=${(/** @type {DragEvent} */ event) => {
    over(event);
    add(event.dataTransfer?.files ?? []);
  }}>
    <p><label class="choose"><input type="file" multiple class="spoken" accept=${accept || nothing}
      @change=${(/** @type {any} */ event) => {
        add(event.target.files);
        event.target.value = "";
      }}><span class="button-like">Choose files</span></label> or drop them here.</p>
    <p class="small quiet">${hint}</p>
    ${list.length ? html`<ul class="uploads">${list.map((entry) => html`<li class=${entry.error ? "warn" : nothing}>
      <span>${entry.name}</span>
      <span class="small quiet">${entry.error ? entry.error : entry.id ? size(entry.bytes) : `sending ${size(entry.bytes)} …`}</span>
      <button type="button" class="plain" aria-label=${`Remove ${entry.name}`} @click=${() => remove(entry)}>remove</button>
    </li>`)}</ul>` : nothing}
  </div>`;
}
