// The room Explain: why the words of a passage, as a page made by a job, beside the text.
import { html, nothing, render } from "/vendor/lit-html.js";
import { element, loadStyle } from "../ui.js";
import { failure, formFields, runList, sentence, showLog, stopButton } from "../rooms/parts.js";
import { isGoing, runsOf, stateOf } from "../rooms/runs.js";

/** @type {Record<string, string>} */
const PARTS = { memory: "Memory, as the model saw it", lore: "World info in view", note: "Author's note" };
const AROUND = 3000; // characters of the story that are shown before and after the passage

/**
 * @param {HTMLElement} place
 * @param {any} app
 */
export async function mount(place, app) {
  await loadStyle("/rooms/rooms.css");
  const store = runsOf(app);
  const [options] = await Promise.all([app.api("GET", "/api/explain"), store.ready]);
  place.classList.add("runs-room");
  const side = element("nav", { class: "runs-side", "aria-label": "Explanations", "data-pane": true });
  const main = element("div", { class: "runs-main", "data-pane": true });
  place.append(side, main);
  const state = {
    /** @type {string | null} */
    chosen: null,
    preset: "short",
    /** @type {Record<string, any>} */
    settings: {},
    starting: false,
  };

  /** What is marked in the room Write; the last sentence before the caret where nothing is. */
  function marked() {
    const write = app.rooms.write?.write;
    if (!write) return null;
    const text = write.view.state.doc.toString();
    let { from, to } = write.view.state.selection.main;
    if (from === to) {
      const before = text.slice(Math.max(0, from - 600), from).trimEnd();
      to = Math.max(0, from - 600) + before.length;
      const cut = Math.max(...[". ", "! ", "? ", "\n", ".” ", "!” ", "?” "].map((sign) => before.lastIndexOf(sign, before.length - 3)));
      from = to - before.length + (cut < 0 ? 0 : cut + 1);
    }
    const passage = text.slice(from, to);
    return { write, text, from, to, passage, words: passage.split(/\s+/).filter(Boolean).length };
  }

  async function start() {
    const now = marked();
    if (!now) return;
    state.starting = true;
    draw();
    try {
      await now.write.flush();
      const run = await store.start("/api/explain", {
        from: now.from, to: now.to, revision: now.write.revision(),
        preset: state.preset, settings: state.settings,
      });
      state.chosen = run.id;
    } catch (/** @type {any} */ error) {
      app.status(error.message, "error", error.advice);
    }
    state.starting = false;
    draw();
  }

  function form() {
    const now = marked();
    const preset = options.presets.find((/** @type {any} */ one) => one.name === state.preset);
    const enough = now !== null && now.words > 0;
    const much = enough && now.words > options.most_words;
    return html`<section aria-labelledby="explain-new"><h2 id="explain-new">Explain a passage</h2>
      ${enough ? html`<p class="small quiet">What is marked in the story, or the sentence before the caret:</p>
          <blockquote class="quote"><mark>${now.passage.trim().slice(0, 600)}</mark></blockquote>
          <p class="small quiet">${now.words} words; each is explained by all that ${app.state.get().model?.name ?? "the model"} sees before it: the story, memory, world info and note.
            ${much ? html`<span class="warn">At most ${options.most_words} words: mark fewer.</span>` : nothing}</p>`
        : html`<p>Mark some words of the story first. <button type="button" class="plain" @click=${() => void app.show("write")}>Go to the story</button></p>`}
      <div role="radiogroup" aria-label="How thoroughly">${options.presets.map((/** @type {any} */ one) => html`<label class="check">
        <input type="radio" name="explain-preset" .checked=${one.name === state.preset} @change=${() => {
          state.preset = one.name;
          draw();
        }}><span>${one.name} <span class="quiet small">${one.why}</span></span></label>`)}</div>
      <details><summary>All settings</summary>${formFields("explain", options.fields, preset.settings, state.settings, (name, value) => {
        if (value === undefined) delete state.settings[name];
        else state.settings[name] = value;
        draw();
      })}</details>
      <p class="small quiet">It loads a model of its own beside the one that writes, yields to the writing, and goes on when this page is closed.</p>
      <button type="button" class="primary" ?disabled=${!enough || much || state.starting} @click=${() => void start()}>Explain</button>
    </section>`;
  }

  /** @param {import("../rooms/runs.js").Run} run */
  function result(run) {
    return html`<header class="run-head"><h2>${run.name}</h2></header>
      <p class="run-state small" data-state=${run.state} role="status">${sentence(stateOf(run))}</p>
      ${isGoing(run) ? html`<progress aria-label="Explaining"></progress><p class="small quiet">${run.doing}</p>` : nothing}
      ${failure(app, run)}
      <div class="row wrap">${stopButton(app, run)}
        ${run.state === "done" ? html`<a href=${`/api/runs/${run.id}/report?download`} download>Save the page</a>` : nothing}
        <button type="button" class="line" @click=${() => void showLog(app, run)}>Log</button>
        ${isGoing(run) ? nothing : html`<button type="button" class="line" @click=${() => void app.api("DELETE", `/api/runs/${run.id}`)}>Set aside</button>`}</div>
      ${run.state === "done" ? html`<div class="beside">
        <div class="story-text" tabindex="0" role="region" aria-label="The story">${beside(run)}${around(run)}</div>
        <iframe class="frame" sandbox="allow-scripts" title=${`Explanation of ${run.name}`} src=${`/api/runs/${run.id}/report`}></iframe></div>` : nothing}`;
  }

  /** What the model saw beside the story. @param {import("../rooms/runs.js").Run} run */
  function beside(run) {
    const parts = /** @type {[string, string][]} */ (run.about.parts ?? []);
    if (!parts.length) return nothing;
    return html`<dl class="seen-parts small">${parts.map(([name, text]) => html`<dt>${PARTS[name] ?? name}</dt><dd>${text}</dd>`)}</dl>`;
  }

  /** The story with the passage marked, if it still stands in it. @param {import("../rooms/runs.js").Run} run */
  function around(run) {
    const { passage, from } = run.about;
    const text = app.rooms.write?.write?.view.state.doc.toString() ?? "";
    const at = text.slice(from, from + passage.length) === passage ? from : text.indexOf(passage);
    if (at < 0) return html`<mark>${passage}</mark><p class="small quiet">The story has been changed: the passage no longer stands in it.</p>`;
    const end = at + passage.length;
    return html`${at > AROUND ? "… " : ""}${text.slice(Math.max(0, at - AROUND), at)}<mark>${passage}</mark>${text.slice(end, end + AROUND)}`;
  }

  let shown = "";
  function draw() {
    const run = state.chosen ? store.get(state.chosen) : null;
    if (!run) state.chosen = null;
    render(html`<button type="button" class=${run ? "line" : "line current"} aria-current=${run ? nothing : "true"} @click=${() => choose(null)}>New explanation</button>
      ${runList(store.of("analyze"), state.chosen, choose, "No explanation yet.")}`, side);
    main.classList.toggle("split", run !== null && run.state === "done");
    // A frame must not be loaded anew because another run has gone on.
    const wanted = JSON.stringify([run?.id, run?.state, run?.state === "done" ? "" : run?.doing]);
    if (run && wanted === shown) return;
    shown = wanted;
    render(run ? html`<div class="run">${result(run)}</div>` : html`<div class="judge">${form()}</div>`, main);
    const mark = main.querySelector(".story-text mark");
    if (mark) mark.scrollIntoView({ block: "center" });
  }

  /** @param {string | null} id */
  function choose(id) {
    state.chosen = id;
    draw();
  }

  store.subscribe(() => draw());
  draw();
  return {
    show() {
      shown = "";
      draw();
    },
    hide() {},
  };
}
