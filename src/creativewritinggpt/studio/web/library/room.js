// The Library: stories, models and runs; import, export, set aside and bring back.
import { html, nothing, render, repeat } from "/vendor/lit-html.js";
import { ApiError } from "../api.js";
import { ask, counted, element, later, loadStyle } from "../ui.js";
import { day, size } from "./format.js";
import { exportModel, exportStory } from "./exporting.js";

/** @typedef {import("../app.js").App} App */
/**
 * @typedef {object} Story
 * @property {string} id
 * @property {string} file
 * @property {string} name
 * @property {string} title
 * @property {number} words
 * @property {number} chapters
 * @property {number} choices
 * @property {string} error
 * @property {boolean} open
 * @property {boolean} elsewhere
 * @property {number} bytes
 * @property {number} changed
 * @property {number | null} opened
 */
/**
 * @typedef {object} Model
 * @property {string} id
 * @property {string} name
 * @property {string} kind
 * @property {string | null} base
 * @property {number} bytes
 * @property {[string, string][]} figures
 * @property {string} created
 * @property {boolean} writing
 */
/** @typedef {{name: string, state: "sending" | "done" | "failed", id?: string, lines: string[]}} Import */

/** Endings that the file dialog offers; what a file is, its content tells. */
const KNOWN = ".txt,.md,.markdown,.docx,.epub,.odt,.rtf,.html,.pdf,.fountain,.json,.jsonl,.story,.scenario,.lorebook,.kaistory,.png";

/** Larger files are not even sent. */
const MOST_BYTES = 500_000_000;

/**
 * @param {HTMLElement} room
 * @param {App} app
 */
export async function mount(room, app) {
  await loadStyle("/library/library.css");
  /** @type {any} */
  let listing = null;
  /** @type {Import[]} */
  let imports = [];
  /** @type {any[]} */
  let runs = [];
  /** @type {any[]} */
  let exports = [];
  /** @type {Map<string, string>} */
  const states = new Map(); // of exports, to notice when one ends
  /** @type {Map<string, [string, string, string][]> | null} */
  let found = null;
  let query = "";
  let shown = false;
  let dragging = false;

  const chooser = element("input", { type: "file", multiple: true, accept: KNOWN, hidden: true, "aria-label": "Files to import" });
  chooser.addEventListener("change", () => {
    const files = [...(chooser.files ?? [])];
    chooser.value = "";
    bringIn(files).catch(fail);
  });

  /** @param {unknown} error */
  function fail(error) {
    if (!(error instanceof ApiError)) throw error;
    app.status(error.message, "error", error.advice);
  }

  async function refresh() {
    [listing, { runs }, { exports }] = await Promise.all([
      app.api("GET", "/api/library"), app.api("GET", "/api/runs"), app.api("GET", "/api/library/exports"),
    ]);
    if (query.trim()) await search();
    draw();
    for (const one of exports) {
      const before = states.get(one.id);
      states.set(one.id, one.state);
      if (before === "running" && one.state === "done") app.status(`${one.name} is written: ${one.folder}`);
      if (before === "running" && one.state === "failed") app.status(one.message, "error", one.advice);
    }
    if (exports.some((one) => one.state === "running" || one.state === "stopping")) pollLater();
  }

  async function search() {
    const asked = query;
    const answer = asked.trim() ? await app.api("GET", `/api/library/search?q=${encodeURIComponent(asked)}`) : null;
    if (asked !== query) return; // typed on
    found = answer && new Map(answer.found.map((/** @type {any} */ one) => [one.id, one.places]));
    draw();
  }

  const searchLater = later(() => search().catch(fail), 150);
  const pollLater = later(() => { if (shown) refresh().catch(fail); }, 1500); // progress makes no event
  const refreshLater = later(() => { if (shown) refresh().catch(fail); }, 300);

  /**
   * @param {string} action
   * @param {Record<string, unknown>} body
   * @param {string} [said] what the status line says then
   */
  async function act(action, body, said) {
    try {
      const answer = await app.api("POST", `/api/library/${action}`, { tab: app.tab, ...body });
      if (said) app.status(said);
      await refresh();
      return answer;
    } catch (error) {
      fail(error);
      return null;
    }
  }

  /** @param {Story | {id: string, name: string}} story */
  async function open(story) {
    const answer = await act("open", { id: story.id });
    if (answer) await app.show("write");
  }

  async function begin() {
    const title = await askForText("New story", "Title", "", "Begin");
    if (title === null) return;
    const answer = await act("new", { title });
    if (answer) await app.show("write");
  }

  /** @param {Story} story */
  async function rename(story) {
    const title = await askForText("Rename", "Title", story.title || story.name, "Rename");
    if (title !== null && title.trim()) await act("rename", { id: story.id, title }, `Renamed: ${title.trim()}`);
  }

  /** @param {File[]} files */
  async function bringIn(files) {
    for (const file of files) {
      /** @type {Import} */
      const one = { name: file.name, state: "sending", lines: [] };
      imports = [one, ...imports];
      draw();
      try {
        if (file.size > MOST_BYTES) {
          throw new ApiError(`${file.name} has ${size(file.size)}, and the studio takes ${size(MOST_BYTES)}`, "split it", "too_large", 413, null);
        }
        const sent = await app.api("PUT", `/api/uploads?name=${encodeURIComponent(file.name)}`, file);
        const answer = await taken(sent.id, file.name);
        if (answer === null) {
          imports = imports.filter((other) => other !== one);
          continue;
        }
        one.state = "done";
        one.id = answer.id;
        one.lines = [answer.came, answer.left_out.length ? `Left out: ${answer.left_out.join(", ")}` : "Nothing was left out.", ...answer.said];
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        one.state = "failed";
        one.lines = [error.message, error.advice ?? ""].filter(Boolean);
      }
      app.status(one.state === "done" ? `${one.name} is imported` : `${one.name} could not be imported`,
        one.state === "done" ? "info" : "error", one.state === "done" ? null : one.lines.join(": "));
      draw();
    }
    await refresh();
  }

  /** Import what was sent; asks which story where there are several. @param {string} upload @param {string} name */
  async function taken(upload, name) {
    try {
      return await app.api("POST", "/api/library/import", { upload });
    } catch (error) {
      if (!(error instanceof ApiError) || !error.body?.stories) throw error;
      const names = String(error.body.listed).split(/, (?=\d+ )/);
      const choices = names.map((label, at) => ({ label, value: at + 1 }));
      const number = await ask(`${name} holds ${error.body.stories} stories`, "Which one should be imported?", choices);
      return number === null ? null : await app.api("POST", "/api/library/import", { upload, number });
    }
  }

  /** @param {Model | {id: string, name: string}} model */
  async function writeWith(model) {
    try {
      await app.api("PATCH", "/api/model", { id: model.id, tab: app.tab });
      app.status(`Loading ${model.name}`);
      await app.show("write");
    } catch (error) {
      fail(error);
    }
  }

  /** @param {any} run */
  async function runAside(run) {
    try {
      await app.api("DELETE", `/api/runs/${run.id}`);
      app.status(`${run.name} is set aside; it is listed at the end`);
      await refresh();
    } catch (error) {
      fail(error);
    }
  }

  /** @param {Story} story */
  function storyRow(story) {
    const places = found?.get(story.id) ?? [];
    const facts = [
      counted(story.words, "word"),
      story.chapters > 1 ? counted(story.chapters, "chapter") : "",
      story.choices ? counted(story.choices, "choice") : "",
      story.opened ? `opened ${day(story.opened)}` : "",
      `changed ${day(story.changed)}`,
      size(story.bytes),
    ].filter(Boolean);
    return html`<li class="story">
      <div class="head">
        ${story.error
          ? html`<span class="name">${story.name}</span>`
          : html`<button type="button" class="plain name" @click=${() => open(story)} aria-label=${`Open ${story.name}`}>${story.name}</button>`}
        ${story.open ? html`<span class="mark">open in Write</span>` : nothing}
        ${story.elsewhere ? html`<span class="mark">open in another session</span>` : nothing}
      </div>
      <div class="facts quiet small">${story.error ? html`<span class="warn">${story.error}</span>` : facts.join(" · ")} · <span class="file">${story.file}</span></div>
      ${places.length ? html`<ul class="places small">${places.map(([before, hit, after]) => html`<li>${before}<mark>${hit}</mark>${after}</li>`)}</ul>` : nothing}
      <div class="actions">
        ${story.error ? nothing : html`
          <button type="button" aria-label=${`Export ${story.name}`} @click=${() => exportStory(app, story).catch(fail)}>Export</button>
          <button type="button" aria-label=${`Rename ${story.name}`} @click=${() => rename(story)}>Rename</button>
          <button type="button" aria-label=${`Duplicate ${story.name}`} @click=${() => act("duplicate", { id: story.id }, `A copy of ${story.name} is there`)}>Duplicate</button>`}
        <button type="button" aria-label=${`Set ${story.name} aside`} ?disabled=${story.open} title=${story.open ? "It is open in Write: open another story first" : nothing}
          @click=${() => act("aside", { id: story.id }, `${story.name} is set aside; it is listed at the end`)}>Set aside</button>
      </div>
    </li>`;
  }

  /** @param {Model} model */
  function modelRow(model) {
    const kind = model.base === null ? "whole model" : `adapter on ${model.base || "an unnamed base"}`;
    return html`<li class="model">
      <div class="head"><span class="name">${model.name}</span>${model.writing ? html`<span class="mark">writing now</span>` : nothing}</div>
      <div class="facts quiet small">${[kind, model.bytes ? size(model.bytes) : "", model.created ? day(Date.parse(model.created) / 1000) : ""].filter(Boolean).join(" · ")}</div>
      ${model.figures.length ? html`<dl class="figures small">${model.figures.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>` : nothing}
      <div class="actions">
        <button type="button" aria-label=${`Write with ${model.name}`} @click=${() => writeWith(model)}>Write with it</button>
        <button type="button" aria-label=${`Export ${model.name}`} @click=${() => exportModel(app, model).then(refresh).catch(fail)}>Export</button>
        ${model.kind === "starter" ? nothing : html`
          <button type="button" aria-label=${`Set ${model.name} aside`} ?disabled=${model.writing} title=${model.writing ? "It is the one that writes: choose another one first" : nothing}
            @click=${() => act("models/aside", { id: model.id }, `${model.name} is set aside; it is listed at the end`)}>Set aside</button>`}
      </div>
    </li>`;
  }

  /** @param {any} run */
  function runRow(run) {
    const going = run.state === "running" || run.state === "stopping";
    const room = run.kind === "train" ? "train" : run.kind === "evaluate" ? "judge" : run.kind === "analyze" ? "explain" : "";
    return html`<li class="run">
      <div class="head"><span class="name">${run.name}</span><span class="mark">${run.state}</span></div>
      <div class="facts quiet small">${[run.kind, day(run.created), run.message].filter(Boolean).join(" · ")}</div>
      <div class="actions">
        ${room ? html`<button type="button" aria-label=${`Show ${run.name}`} @click=${() => app.show(room)}>Show</button>` : nothing}
        <button type="button" aria-label=${`Set ${run.name} aside`} ?disabled=${going} @click=${() => runAside(run)}>Set aside</button>
      </div>
    </li>`;
  }

  /** @param {any} one */
  function exportRow(one) {
    const going = one.state === "running" || one.state === "stopping";
    return html`<li class="export">
      <div class="head"><span class="name">${one.name}</span><span class="mark">${one.state}</span></div>
      ${going && one.progress ? html`<div class="facts quiet small">${one.progress.what}${one.progress.total ? "" : " …"}</div>
        ${one.progress.total ? html`<progress aria-label=${`Progress of ${one.name}`} max=${one.progress.total} .value=${one.progress.done}></progress>`
          : html`<progress aria-label=${`Progress of ${one.name}`}></progress>`}` : nothing}
      ${one.message ? html`<div class="small warn">${[one.message, one.advice].filter(Boolean).join(": ")}</div>` : nothing}
      ${one.folder ? html`<div class="small">It lies in <code>${one.folder}</code></div>` : nothing}
      ${one.files.map((/** @type {any} */ file) => html`<div class="small figures"><code>${file.name}</code> <span class="quiet">${file.what} · ${size(file.bytes)}</span>
        <ul class="levels">${file.levels.map((/** @type {string} */ line) => html`<li>${line}</li>`)}</ul></div>`)}
      ${one.notes.map((/** @type {string} */ line) => html`<div class="small quiet">${line}</div>`)}
      <div class="actions">${going
        ? html`<button type="button" aria-label=${`Stop ${one.name}`} @click=${() => app.api("POST", `/api/runs/${one.id}/stop`).then(refresh).catch(fail)}>Stop</button>`
        : html`<button type="button" aria-label=${`Set ${one.name} aside`} @click=${() => runAside(one)}>Set aside</button>`}</div>
    </li>`;
  }

  /** @param {Import} one */
  function importRow(one) {
    return html`<li class=${`import ${one.state}`}>
      <div class="head"><span class="name">${one.name}</span><span class="mark">${one.state === "sending" ? "importing …" : one.state === "done" ? "imported" : "not imported"}</span></div>
      ${one.lines.map((line) => html`<div class="small ${one.state === "failed" ? "warn" : "quiet"}">${line}</div>`)}
      <div class="actions">
        ${one.id ? html`<button type="button" aria-label=${`Open ${one.name}`} @click=${() => open({ id: one.id ?? "", name: one.name })}>Open</button>` : nothing}
        <button type="button" aria-label=${`Hide ${one.name}`} @click=${() => { imports = imports.filter((other) => other !== one); draw(); }}>Hide</button>
      </div>
    </li>`;
  }

  function aside() {
    const { aside: stories, models_aside: models } = listing;
    const count = stories.length + models.length + listing.runs_aside.length;
    if (!count) return nothing;
    /** @param {{id: string, name: string}} one @param {string} detail @param {() => unknown} back */
    const row = (one, detail, back) => html`<li><div class="head"><span class="name">${one.name}</span></div>
      <div class="facts quiet small">${detail}</div>
      <div class="actions"><button type="button" aria-label=${`Bring ${one.name} back`} @click=${back}>Bring back</button></div></li>`;
    return html`<details class="aside"><summary>Set aside (${count})</summary>
      <p class="small quiet">Nothing is ever deleted here. What was set aside lies in a folder of that name, and can be brought back.</p>
      <ul class="list">
        ${stories.map((/** @type {Story} */ one) => row(one, `story · ${counted(one.words, "word")} · ${one.file}`, () => act("back", { id: one.id }, `${one.name} is back`)))}
        ${models.map((/** @type {Model} */ one) => row(one, `model · ${size(one.bytes)}`, () => act("models/aside", { id: one.id, back: true }, `${one.name} is back`)))}
        ${listing.runs_aside.map((/** @type {any} */ one) => row(one, `run · ${one.kind} · ${day(one.created)}`, () => act("runs/back", { id: one.id }, `${one.name} is back`)))}
      </ul></details>`;
  }

  function draw() {
    if (!listing) return;
    const stories = found ? listing.stories.filter((/** @type {Story} */ one) => found?.has(one.id)) : listing.stories;
    const listed = runs.filter((run) => run.kind !== "export");
    const starter = { id: "starter", name: "starter", kind: "starter", base: null, bytes: 0, created: "", writing: listing.starter_writing,
      figures: [["the small model that comes with it", "SmolLM2, 135M"]] };
    render(html`<div class=${dragging ? "library dragging" : "library"}>
      ${chooser}
      <section aria-labelledby="library-stories" data-pane>
        <div class="title"><h2 id="library-stories">Stories</h2>
          <input type="search" aria-label="Search stories" placeholder="Search titles and texts" maxlength="200"
            .value=${query} @input=${(/** @type {Event} */ event) => { query = /** @type {HTMLInputElement} */ (event.target).value; searchLater(); }}>
          <button type="button" class="line" @click=${() => chooser.click()}>Import</button>
          <button type="button" class="primary" @click=${() => begin().catch(fail)}>New story</button></div>
        ${imports.length ? html`<ul class="list imports" aria-label="Imported">${imports.map(importRow)}</ul>` : nothing}
        ${stories.length
          ? html`<ul class="list" aria-label="Stories">${repeat(stories, (/** @type {Story} */ one) => one.id, storyRow)}</ul>`
          : html`<p class="quiet">${found ? `Nothing is found for “${query.trim()}”.` : "There are no stories yet. Begin one, or drop files here: texts, Markdown, Word, EPUB, and stories of KoboldAI, mikupad, NovelAI, AI Dungeon and SillyTavern."}</p>`}
        ${stories.length && !found ? html`<p class="small quiet hint">Files can be dropped here to import them. The stories lie in <code>${listing.folder}</code>.</p>` : nothing}
      </section>
      <section aria-labelledby="library-models" data-pane>
        <div class="title"><h2 id="library-models">Models</h2></div>
        <ul class="list" aria-label="Models">${repeat([...listing.models, ...(listing.starter ? [starter] : [])], (/** @type {Model} */ one) => one.id, modelRow)}</ul>
        ${listing.models.length ? nothing : html`<p class="small quiet">A model that you train appears here.</p>`}
      </section>
      ${exports.length ? html`<section aria-labelledby="library-exports" data-pane>
        <div class="title"><h2 id="library-exports">Exported models</h2></div>
        <ul class="list" aria-label="Exported models">${repeat(exports, (/** @type {any} */ one) => one.id, exportRow)}</ul></section>` : nothing}
      ${listed.length ? html`<section aria-labelledby="library-runs" data-pane>
        <div class="title"><h2 id="library-runs">Runs</h2></div>
        <ul class="list" aria-label="Runs">${repeat(listed, (/** @type {any} */ run) => run.id, runRow)}</ul></section>` : nothing}
      ${aside()}
    </div>`, room);
  }

  /** @param {DragEvent} event */
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
  let depth = 0; // dragenter and dragleave come for every element below
  const drag = (/** @type {boolean} */ on) => { if (dragging !== on) { dragging = on; draw(); } };
  room.addEventListener("dragenter", (event) => { if (holdsFiles(event)) { event.preventDefault(); depth += 1; drag(true); } });
  room.addEventListener("dragleave", (event) => { if (holdsFiles(event) && (depth -= 1) <= 0) drag(false); });
  room.addEventListener("dragover", (event) => { if (holdsFiles(event)) event.preventDefault(); });
  room.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = 0;
    drag(false);
    bringIn([...(event.dataTransfer?.files ?? [])]).catch(fail);
  });
  for (const kind of ["library", "run", "model", "hello"]) app.events.on(kind, refreshLater);
  app.events.on("story", (/** @type {any} */ event) => { if (event.by === "file" || event.patch?.title !== undefined) refreshLater(); });

  return {
    show() {
      shown = true;
      refresh().catch(fail);
    },
    hide() {
      shown = false;
    },
  };
}

/**
 * Ask for a line of text; null where the dialog was closed.
 * @param {string} title @param {string} label @param {string} value @param {string} button
 * @returns {Promise<string | null>}
 */
async function askForText(title, label, value, button) {
  const input = element("input", { type: "text", "aria-label": label, maxlength: "200", value });
  const content = element("label", { class: "field" }, label, input);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    input.closest("dialog")?.querySelector(/** @type {"button"} */ ("button.primary"))?.click();
  });
  const asked = ask(title, content, [{ label: "Cancel", value: "" }, { label: button, value: "yes", primary: true }]);
  input.focus();
  input.select();
  return (await asked) === "yes" ? input.value : null;
}
