// Trainings side by side: a table that can be sorted, with the settings in which they differ.
import { html, nothing } from "/vendor/lit-html.js";
import { grouped } from "../ui.js";
import { sortableTable } from "../rooms/parts.js";
import { duration, size } from "../rooms/runs.js";

/**
 * @param {any} app
 * @param {{render: () => void}} room
 */
export function createComparison(app, room) {
  /** @type {any} */
  let found = null;
  let by = { name: "perplexity", down: false };

  async function load() {
    found = await app.api("GET", "/api/judge/compare");
    room.render();
  }

  /** @param {number | null | undefined} value @param {(value: number) => string} write */
  const cell = (value, write) => ({ order: value ?? null, shown: value === null || value === undefined ? "–" : write(value) });

  function show() {
    if (!found) return html`<p class="quiet">Reading …</p>`;
    if (!found.rows.length) {
      return html`<section><h2>Compare trainings</h2><p>There is no training with a validation yet.</p></section>`;
    }
    const heads = [
      { name: "name", label: "training", text: true }, { name: "base", label: "base", text: true },
      { name: "loss", label: "loss" }, { name: "perplexity", label: "perplexity" }, { name: "before", label: "before" },
      ...found.domains.length > 1 ? found.domains.map((/** @type {string} */ name) => ({ name: `of ${name}`, label: name })) : [],
      { name: "steps", label: "steps" }, { name: "seconds", label: "time" }, { name: "speed", label: "tokens/s" }, { name: "memory", label: "memory" },
      ...found.differ.map((/** @type {string} */ name) => ({ name: `set ${name}`, label: name.replaceAll("_", " ") })),
    ];
    const rows = found.rows.map((/** @type {any} */ row) => ({
      name: row.name, base: row.base.split("/").at(-1), loss: cell(row.loss, (value) => value.toFixed(3)),
      perplexity: cell(row.perplexity, (value) => value.toFixed(2)), before: cell(row.base_perplexity, (value) => value.toFixed(2)),
      steps: cell(row.steps, grouped), seconds: cell(row.seconds, duration),
      speed: cell(row.tokens_per_second, (value) => grouped(Math.round(value))), memory: cell(row.memory, size),
      ...Object.fromEntries(found.domains.map((/** @type {string} */ name) => [`of ${name}`, cell(row.domains[name], (value) => value.toFixed(2))])),
      ...Object.fromEntries(found.differ.map((/** @type {string} */ name) => {
        const value = row.settings[name];
        return [`set ${name}`, { order: typeof value === "number" ? value : value === null ? null : String(value), shown: value === null ? "–" : String(value) }];
      })),
    }));
    return html`<section aria-labelledby="judge-compare"><h2 id="judge-compare">Compare trainings</h2>
      <p class="quiet">Validation loss in nats per token and perplexity of each at its best step; before: of the base model. Perplexities compare only where the held-out texts are the same.
        ${found.differ.length ? "At the right: the settings in which they differ." : nothing}</p>
      ${sortableTable({ heads, rows, by, caption: "Trainings compared", sort(name) {
        by = { name, down: by.name === name ? !by.down : false };
        room.render();
      } })}</section>`;
  }
  return { show, load };
}
