// A new training: texts, what they become, recipe and settings, time and memory, start.
import { html, nothing } from "/vendor/lit-html.js";
import { ask, counted, grouped, later } from "../ui.js";
import { failure, formFields, sentence } from "../rooms/parts.js";
import { duration, isGoing, runsOf, size } from "../rooms/runs.js";
import { dropZone, uploadAll } from "../rooms/upload.js";
import { inspection } from "./inspection.js";

const WAIT = 500; // after the last change, before it is read anew
const IDLE = 1500; // after reading, before it is measured

/**
 * @param {any} app
 * @param {any} options of GET /api/train
 * @param {{render: () => void, started: (id: string) => void}} room
 */
export function createForm(app, options, room) {
  const store = runsOf(app);
  const first = options.recipes[0];
  const state = {
    /** @type {import("../rooms/upload.js").Upload[]} */
    uploads: [],
    /** @type {string[]} */
    sources: [],
    recipe: first.name,
    model: "starter",
    other: "",
    name: "",
    prompts: "",
    /** @type {Record<string, any>} */
    settings: {},
    /** @type {string | null} */
    inspect: null,
    /** @type {any} */
    found: null,
    /** @type {string | null} */
    estimate: null,
    /** @type {any} */
    measured: null,
    /** @type {string[]} */
    notes: options.notes,
    starting: false,
  };

  const ready = () => state.uploads.some((entry) => entry.id) || state.sources.length > 0;
  const busy = () => state.uploads.some((entry) => !entry.id && !entry.error);

  function body() {
    return {
      files: state.uploads.filter((entry) => entry.id).map((entry) => entry.id),
      sources: state.sources,
      recipe: state.recipe,
      model: state.model === "other" ? state.other.trim() || "starter" : state.model,
      settings: state.settings,
      prompts: state.prompts.split("\n").filter((line) => line.trim()),
      name: state.name,
    };
  }

  const inspect = later(async () => {
    if (!ready() || busy()) return;
    try {
      state.inspect = (await store.start("/api/train/inspect", body())).id;
    } catch (/** @type {any} */ error) {
      app.status(error.message, "error", error.advice);
    }
    room.render();
  }, WAIT);

  const measure = later(async () => {
    if (!state.found || state.estimate) return;
    try {
      state.estimate = (await store.start("/api/train/estimate", body())).id;
    } catch (/** @type {any} */ error) {
      app.status(error.message, "error", error.advice);
    }
    room.render();
  }, IDLE);

  /** Something was changed: what was read and measured is of other texts or settings. */
  function changed() {
    state.inspect = state.found = state.estimate = state.measured = null;
    inspect();
    room.render();
  }

  store.subscribe(async (run) => {
    if (!run || isGoing(run) || run.state !== "done") return;
    if (run.id === state.inspect && !state.found) {
      state.found = await app.api("GET", `/api/runs/${run.id}/result`);
      if (!store.of("train").some(isGoing) && state.found.tokens !== null) measure();
    } else if (run.id === state.estimate && !state.measured) {
      state.measured = await app.api("GET", `/api/runs/${run.id}/result`);
      const needed = state.measured.memory_bytes;
      state.notes = (await app.api("POST", "/api/train/notes", { memory: needed })).notes;
    } else return;
    room.render();
  });

  /** @param {Iterable<File>} files */
  function add(files) {
    state.sources = [];
    void uploadAll(app, files, state.uploads, () => {
      room.render();
      if (!busy()) changed();
    });
  }

  async function start(beside = false) {
    state.starting = true;
    room.render();
    try {
      const run = await store.start("/api/train", { ...body(), beside });
      state.name = "";
      room.started(run.id);
    } catch (/** @type {any} */ error) {
      if (error.status === 409 && !beside) {
        const go = await ask("Another training runs", sentence(error.message), [
          { label: "Wait", value: false },
          { label: "Start beside it", value: true, primary: true },
        ]);
        if (go) await start(true);
      } else app.status(error.message, "error", error.advice);
    }
    state.starting = false;
    room.render();
  }

  function showTexts() {
    return html`<section aria-labelledby="train-texts"><h2 id="train-texts">Texts</h2>
      ${dropZone({
        list: state.uploads, add, accept: [...options.endings, ".gz", ".zst"].join(","),
        hint: "Novels, stories, chats and tables: text, Markdown, Word, OpenDocument, EPUB, PDF, RTF, HTML, JSON lines, CSV, Parquet.",
        remove(entry) {
          state.uploads.splice(state.uploads.indexOf(entry), 1);
          changed();
        },
      })}
      ${state.uploads.length ? nothing : html`<fieldset class="sources"><legend>or a source with a name</legend>
        ${options.sources.map((/** @type {any} */ source) => html`<label class="check">
          <input type="checkbox" .checked=${state.sources.includes(source.name)} @change=${(/** @type {any} */ event) => {
            const others = state.sources.filter((name) => name !== source.name);
            state.sources = event.target.checked ? [...others, source.name] : others;
            changed();
          }}><span>${source.name} <span class="quiet small">${source.about}</span></span></label>`)}
      </fieldset>`}
    </section>`;
  }

  function showFound() {
    const run = state.inspect ? store.get(state.inspect) : null;
    if (!run) return nothing;
    return html`<section aria-labelledby="train-found"><h2 id="train-found">What they become</h2>
      ${run.state === "failed" ? failure(app, run)
        : state.found ? inspection(state.found)
          : html`<p class="quiet" role="status">Reading … ${run.doing && run.doing !== "begun" ? run.doing : ""}</p>`}
    </section>`;
  }

  function showRecipe() {
    const chosen = options.recipes.find((/** @type {any} */ recipe) => recipe.name === state.recipe);
    return html`<section aria-labelledby="train-recipe"><h2 id="train-recipe">Recipe and model</h2>
      <div role="radiogroup" aria-labelledby="train-recipe">${options.recipes.map((/** @type {any} */ recipe) => html`<label class="check">
        <input type="radio" name="recipe" .checked=${recipe.name === state.recipe} @change=${() => {
          state.recipe = recipe.name;
          // A recipe names modules of its own model.
          if (recipe.model !== "starter") {
            state.model = "other";
            state.other = recipe.model;
          } else if (options.recipes.some((/** @type {any} */ one) => one.model === state.other)) {
            state.model = "starter";
            state.other = "";
          }
          changed();
        }}><span>${recipe.name} <span class="quiet small">${recipe.why}</span></span></label>`)}</div>
      <div class="two">
        <label>Model to train<select @change=${(/** @type {any} */ event) => {
          state.model = event.target.value;
          if (state.model !== "other" || state.other) changed();
          else room.render();
        }}>${options.bases.map((/** @type {any} */ base) => html`<option value=${base.id} .selected=${base.id === state.model}>${base.name}: ${base.about}</option>`)}
          <option value="other" .selected=${state.model === "other"}>another: a folder or a name on the hub</option></select></label>
        ${state.model === "other" ? html`<label>Folder or name<input type="text" .value=${state.other}
          placeholder="gpt2, HuggingFaceTB/SmolLM2-360M, /path/to/model" @change=${(/** @type {any} */ event) => {
            state.other = event.target.value;
            changed();
          }}></label>` : nothing}
        <label>Name of the run<input type="text" maxlength="120" .value=${state.name} placeholder="after the first text"
          @input=${(/** @type {any} */ event) => { state.name = event.target.value; }}></label>
      </div>
      <details><summary>Samples while it trains</summary>
        <label>The model continues these at each validation, one a line
          <textarea rows="3" .value=${state.prompts} placeholder="Once upon a time in a kingdom far away,"
            @change=${(/** @type {any} */ event) => { state.prompts = event.target.value; }}></textarea></label></details>
      <details><summary>All settings${Object.keys(state.settings).length ? ` (${counted(Object.keys(state.settings).length, "change")})` : ""}</summary>
        ${formFields("train", options.fields, chosen.settings, state.settings, (name, value) => {
          if (value === undefined) delete state.settings[name];
          else state.settings[name] = value;
          changed();
        })}</details>
    </section>`;
  }

  function showEstimate() {
    const run = state.estimate ? store.get(state.estimate) : null;
    const measured = state.measured;
    const [low, likely, high] = measured?.seconds ?? [];
    return html`<section aria-labelledby="train-estimate"><h2 id="train-estimate">Time and memory</h2>
      ${measured ? html`<p>About <strong>${duration(likely)}</strong> (${duration(low)} to ${duration(high)}) for
          ${counted(measured.total_steps, "step")} and ${counted(measured.evaluations, "validation")} on this machine as busy as it is now,
          and <strong>${size(measured.memory_bytes)}</strong> of memory, of which ${size(measured.free_bytes)} are free.</p>
          <p class="small quiet">It trains ${grouped(measured.trainable_parameters)} of ${grouped(measured.total_parameters)} parameters on
          ${grouped(measured.tokens)} tokens. It may end before, when the validation loss falls no further.</p>`
        : run?.state === "failed" ? failure(app, run)
          : run && isGoing(run) ? html`<p class="quiet" role="status">Measuring a few steps of it: this takes half a minute. You need not wait.</p>`
            : html`<p class="quiet">It is measured on this machine once the texts are read.
                ${state.found ? html`<button type="button" class="plain" @click=${() => measure.now()}>Measure now</button>` : nothing}</p>`}
      ${options.fetches && state.model === "starter" ? html`<p class="note">The starter (93 MB) is fetched once, when it is measured or trained; that needs a connection.</p>` : nothing}
      ${state.notes.map((note) => html`<p class="note">${note}</p>`)}
      <div class="row wrap"><button type="button" class="primary" ?disabled=${!ready() || busy() || state.starting}
        @click=${() => void start()}>Start training</button>
        ${ready() ? nothing : html`<span class="small quiet">Choose files or a source first.</span>`}</div>
    </section>`;
  }

  return {
    show: () => html`<div class="form">${showTexts()}${showFound()}${showRecipe()}${showEstimate()}</div>`,
    /** @param {any} fresh */
    renew(fresh) {
      options = fresh;
      state.notes = fresh.notes;
    },
  };
}
