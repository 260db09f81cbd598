// Originality of the story at hand: which runs of words stand in the training text, in place.
import { html, nothing } from "/vendor/lit-html.js";
import { counted } from "../ui.js";
import { failure, stopButton } from "../rooms/parts.js";
import { isGoing, runsOf } from "../rooms/runs.js";
import { clearMarks, markPlaces, placesNow } from "./marks.js";

/**
 * @param {any} app
 * @param {{render: () => void, options: () => any}} room
 */
export function createOriginality(app, room) {
  const store = runsOf(app);
  const state = {
    /** @type {string | null} */
    model: null,
    /** @type {string | null} */
    run: null,
    /** @type {any} */
    found: null,
    marked: false,
  };

  const models = () => room.options().models.filter((/** @type {any} */ model) => model.trained);

  store.subscribe(async (run) => {
    if (!run || run.id !== state.run || run.state !== "done" || state.found) return;
    const found = await app.api("GET", `/api/judge/originality/${run.id}`);
    if (state.run !== run.id) return;
    state.found = found;
    room.render();
  });

  /** The editor of the room Write, which is mounted where it is not yet. */
  async function editor() {
    if (!app.rooms.write) {
      await app.show("write");
      await app.show("judge");
    }
    return app.rooms.write.write;
  }

  async function search() {
    state.found = null;
    try {
      const write = await editor();
      clearMarks(write.view);
      state.marked = false;
      await write.flush();
      const model = state.model ?? models()[0]?.id;
      state.run = (await store.start("/api/judge/originality", { model })).id;
    } catch (/** @type {any} */ error) {
      app.status(error.message, "error", error.advice);
    }
    room.render();
  }

  /** @param {any} [copied] the run of words to go to */
  async function mark(copied) {
    const write = await editor();
    const places = placesNow(write.view.state.doc.toString(), state.found.runs);
    state.marked = true;
    await app.show("write");
    markPlaces(write, places);
    const at = copied ? places.find((place) => place.copied === copied) : places[0];
    if (at) {
      write.view.dispatch({ selection: { anchor: at.from, head: at.to }, scrollIntoView: true });
      write.view.focus();
    } else app.status("That passage no longer stands in the story.", "warning");
    room.render();
  }

  async function unmark() {
    clearMarks((await editor()).view);
    state.marked = false;
    room.render();
  }

  function show() {
    const run = state.run ? store.get(state.run) : null;
    const found = state.found;
    if (!models().length) {
      return html`<section><h2>Originality of the story</h2><p>No model was trained here yet: the story is compared with the text that a model was trained on.</p>
        <button type="button" class="line" @click=${() => void app.show("train")}>Train one</button></section>`;
    }
    return html`<section aria-labelledby="judge-original"><h2 id="judge-original">Originality of the story</h2>
      <p class="quiet">Runs of eight words or more of the story that stand in a model's training text. Case and punctuation do not count.</p>
      <div class="two"><label>Training text of<select @change=${(/** @type {any} */ event) => {
        state.model = event.target.value;
        state.run = state.found = null;
        room.render();
      }}>${models().map((/** @type {any} */ model) => html`<option value=${model.id} .selected=${model.id === state.model}>${model.name}</option>`)}</select></label></div>
      <div class="row wrap"><button type="button" class="primary" ?disabled=${Boolean(run && isGoing(run))} @click=${() => void search()}>Search the story</button>
        ${run ? stopButton(app, run) : nothing}
        ${found?.runs.length ? html`<button type="button" class="line" aria-pressed=${String(state.marked)} @click=${() => void (state.marked ? unmark() : mark())}>Mark in the story</button>` : nothing}</div>
      ${run && isGoing(run) ? html`<p class="quiet" role="status">Searching … ${run.doing}</p>` : nothing}
      ${run ? failure(app, run) : nothing}
      ${found ? html`<p role="status"><strong>${found.sentence}</strong></p>
        <ol class="found-runs">${found.runs.map((/** @type {any} */ copied) => html`<li>
          <p class="quote"><span class="quiet">… ${copied.context[0]}</span> <mark>${copied.text}</mark> <span class="quiet">${copied.context[1]} …</span></p>
          <span class="small quiet">${counted(copied.words, "word")} · ${copied.document.source}${copied.document.title ? ` · ${copied.document.title}` : ""} · begins “${copied.document.begins}”</span>
          <button type="button" class="plain" @click=${() => void mark(copied)}>show in the story</button></li>`)}</ol>` : nothing}
    </section>`;
  }
  return { show };
}
