// Evaluations: a new one, and the figures of one in the studio's look.
import { html, nothing, svg } from "/vendor/lit-html.js";
import { failure, formFields, sentence, showLog, stopButton } from "../rooms/parts.js";
import { isGoing, runsOf, stateOf } from "../rooms/runs.js";
import { dropZone, uploadAll } from "../rooms/upload.js";

/**
 * @param {any} app
 * @param {{render: () => void, options: () => any, choose: (id: string) => void}} room
 */
export function createEvaluations(app, room) {
  const store = runsOf(app);
  const first = room.options().models[0];
  const state = {
    model: first.id,
    compare: "",
    preset: "short",
    /** @type {import("../rooms/upload.js").Upload[]} */
    uploads: [],
    /** @type {import("../rooms/upload.js").Upload[]} */
    voice: [],
    /** @type {import("../rooms/upload.js").Upload[]} */
    others: [],
    /** @type {Record<string, any>} */
    settings: {},
    /** @type {any} */
    page: null,
    /** @type {string | null} */
    shown: null,
    framed: false,
  };

  store.subscribe((run) => {
    if (run && run.id === state.shown && !isGoing(run) && !state.page) void load(run.id);
  });

  /** @param {string} id */
  async function load(id) {
    if (store.get(id)?.state !== "done") return;
    const page = await app.api("GET", `/api/judge/${id}`);
    if (state.shown === id) state.page = page;
    room.render();
  }

  async function start() {
    try {
      const run = await store.start("/api/judge", {
        model: state.model,
        compare: state.compare ? [state.compare] : [],
        ...(state.preset === "voice" ? { voice: idsOf(state.voice), others: idsOf(state.others) } : { files: idsOf(state.uploads) }),
        sources: needsTexts() && state.preset !== "voice" && !state.uploads.length ? ["sample"] : [],
        preset: state.preset,
        settings: state.settings,
      });
      room.choose(run.id);
    } catch (/** @type {any} */ error) {
      app.status(error.message, "error", error.advice);
    }
  }

  /** @param {import("../rooms/upload.js").Upload[]} list */
  const idsOf = (list) => list.filter((entry) => entry.id).map((entry) => entry.id);
  /** A place for files. @param {import("../rooms/upload.js").Upload[]} list @param {string} hint */
  const zone = (list, hint) => dropZone({
    list, accept: "", hint,
    add: (files) => void uploadAll(app, files, list, room.render),
    remove(entry) {
      list.splice(list.indexOf(entry), 1);
      room.render();
    },
  });

  function voiceTexts() {
    const words = state.settings.voice_words ?? 5000;
    return html`<section class="two voice" aria-label="Voice">
      <div><h3 id="judge-author">The author's texts</h3>
        <p class="small quiet">${needsTexts() ? "Chapters of the one author whose voice it should be, best such as the model has not seen: some of them are held out to judge by."
          : "Without files: the chapters that were held out when it was trained."}</p>
        ${zone(state.voice, "Texts of one author.")}</div>
      <div><h3 id="judge-others">Other authors</h3>
        <p class="small quiet">Three or more, a file each, best of the author's time. Without any, the sample texts stand in, which differ from a novel in more than the voice.</p>
        ${zone(state.others, "Texts of other authors.")}</div></section>
      <p class="small quiet">Each model writes ${words.toLocaleString("en")} words; below 2,000 nothing can be told. 0 on the scale is as far away as other authors are, 1 as near as the author's own chapters are to each other.</p>`;
  }

  /** Whether what was asked for is not there yet. */
  function waits() {
    const lists = state.preset === "voice" ? [state.voice, state.others] : [state.uploads];
    if (lists.flat().some((entry) => !entry.id && !entry.error)) return true;
    return state.preset === "voice" && needsTexts() && !idsOf(state.voice).length;
  }

  const modelOf = (/** @type {string} */ id) => room.options().models.find((/** @type {any} */ model) => model.id === id);
  const needsTexts = () => !modelOf(state.model)?.held_out;

  function form() {
    const options = room.options();
    const preset = options.presets.find((/** @type {any} */ one) => one.name === state.preset);
    return html`<section aria-labelledby="judge-new"><h2 id="judge-new">Judge a model</h2>
      <div class="two">
        <label>Model<select @change=${(/** @type {any} */ event) => {
          state.model = event.target.value;
          room.render();
        }}>${options.models.map((/** @type {any} */ model) => html`<option value=${model.id} .selected=${model.id === state.model}>${model.name}</option>`)}</select></label>
        <label>Compared with<select @change=${(/** @type {any} */ event) => { state.compare = event.target.value; }}>
          <option value="">the model that it was trained from</option>
          ${options.models.filter((/** @type {any} */ model) => model.id !== state.model).map((/** @type {any} */ model) => html`<option value=${model.id} .selected=${model.id === state.compare}>${model.name}</option>`)}</select></label>
      </div>
      <div role="radiogroup" aria-label="How thoroughly">${options.presets.map((/** @type {any} */ one) => html`<label class="check">
        <input type="radio" name="judge-preset" .checked=${one.name === state.preset} @change=${() => {
          state.preset = one.name;
          room.render();
        }}><span>${one.name} <span class="quiet small">${one.why}</span></span></label>`)}</div>
      ${state.preset === "voice" ? voiceTexts() : html`<details ?open=${needsTexts()}><summary>Texts to judge by</summary>
        <p class="small quiet">${needsTexts() ? "This model has no held-out texts. Give some that it has not seen, or the sample texts of the package are taken."
          : "Without files: the documents that were held out when it was trained."}</p>
        ${zone(state.uploads, "Texts that the model was not trained on.")}</details>`}
      <details><summary>All settings</summary>${formFields("judge", options.fields, preset.settings, state.settings, (name, value) => {
        if (value === undefined) delete state.settings[name];
        else state.settings[name] = value;
        room.render();
      })}</details>
      <p class="small quiet">It loads a model of its own beside the one that writes, yields to the writing, and goes on when this page is closed.</p>
      <button type="button" class="primary" ?disabled=${waits()} @click=${() => void start()}>Start evaluation</button>
    </section>`;
  }

  /** @param {string} id */
  function result(id) {
    const run = store.get(id);
    if (!run) return html`<p>This evaluation was set aside.</p>`;
    return html`<article class="run"><header class="run-head"><h2>${run.name}</h2>
        <p class="small quiet">${[run.about.preset, ...(run.about.files ?? []), ...(run.about.others?.length ? [`against ${run.about.others.join(", ")}`] : []), ...(run.about.sources ?? [])].join(" · ")}</p></header>
      <p class="run-state" data-state=${run.state} role="status">${sentence(stateOf(run))}</p>
      ${isGoing(run) ? html`<progress aria-label="Evaluating"></progress><p class="small quiet">${run.doing}</p>` : nothing}
      ${failure(app, run)}
      <div class="row wrap">${stopButton(app, run)}
        ${state.page ? html`<button type="button" class="line" aria-pressed=${String(state.framed)} @click=${() => {
          state.framed = !state.framed;
          room.render();
        }}>Full report</button><a href=${`/api/runs/${id}/report?download`} download>Save the report</a>` : nothing}
        <button type="button" class="line" @click=${() => void showLog(app, run)}>Log</button>
        ${isGoing(run) ? nothing : html`<button type="button" class="line" @click=${() => void app.api("DELETE", `/api/runs/${id}`)}>Set aside</button>`}
      </div>
      ${state.framed ? html`<iframe class="frame" sandbox="allow-scripts" title=${`Report of ${run.name}`} src=${`/api/runs/${id}/report`}></iframe>`
        : state.page ? figures(state.page) : nothing}</article>`;
  }

  return {
    /** @param {string | null} id */
    show: (id) => (id ? result(id) : form()),
    /** @param {string} id */
    async open(id) {
      state.shown = id;
      state.page = null;
      state.framed = false;
      await load(id);
    },
    /** @param {string} model */
    choose(model) {
      state.model = model;
    },
  };
}

/** @param {any} page of GET /api/judge/{id} */
function figures(page) {
  const most = Math.max(...page.bars.flatMap((/** @type {any} */ bar) => Object.values(bar.values)));
  return html`<section><h3>Perplexity by source</h3><p class="small quiet">Between how many tokens the model wavers at each place: fewer is better.</p>
      ${page.bars.map((/** @type {any} */ bar) => page.labels.map((/** @type {string} */ label, /** @type {number} */ place) => {
        const value = bar.values[label];
        return html`<div class="bar-row"><span>${bar.domain} <span class="quiet">${label}</span></span>
          <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">${svg`<rect class=${place ? "bar" : "bar first"} width=${(100 * value) / most} height="10" rx="1"></rect>`}</svg>
          <span class="figures">${value.toFixed(2)}</span></div>`;
      }))}</section>
    ${page.voice?.sentence ? html`<section><h3>Voice</h3><p>${sentence(page.voice.sentence)}</p>
      ${page.habits.length ? html`<p>Where it differs most from the author:</p><ul class="small">${page.habits.map((/** @type {string} */ said) => html`<li>${said}</li>`)}</ul>` : nothing}
      ${page.voice.warnings.map((/** @type {string} */ text) => html`<p class="note">${text}</p>`)}</section>` : nothing}
    ${page.tables.map((/** @type {any} */ table) => html`<section><h3>${table.title}</h3>
      <div class="wide" tabindex="0" role="region" aria-label=${table.title}><table class="figures">
        <thead><tr>${table.heads.map((/** @type {string} */ head) => html`<th scope="col">${head}</th>`)}</tr></thead>
        <tbody>${table.rows.map((/** @type {string[]} */ row) => html`<tr>${row.map((cell, place) => place ? html`<td class=${/[a-z].*\s.*\s/i.test(cell) ? "text" : nothing}>${cell}</td>` : html`<th scope="row">${cell}</th>`)}</tr>`)}</tbody>
      </table></div><p class="small quiet">${table.caption}</p></section>`)}
    ${Object.entries(page.without).map(([what, why]) => html`<p class="note">${what} was not measured: ${why}.</p>`)}
    ${page.samples.length ? html`<section><h3>What they wrote</h3>${page.samples.slice(0, 6).map((/** @type {any} */ sample) => html`<details>
      <summary>${sample.prompt.slice(0, 100)}…</summary>${Object.entries(sample.texts).map(([label, text]) => html`<p class="sample"><span class="small quiet">${label}</span><br>${text}</p>`)}</details>`)}</section>` : nothing}`;
}
