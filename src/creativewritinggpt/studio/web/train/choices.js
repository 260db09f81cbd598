// Learn from my choices: what stories hold, a training on it, and drafts before and after.
import { html, nothing } from "/vendor/lit-html.js";
import { counted } from "../ui.js";
import { sentence } from "../rooms/parts.js";
import { runsOf } from "../rooms/runs.js";

/** @type {Record<string, string>} */
const USES = {
  pick: "what you took against all that was shown", retry: "the version kept against the others",
  undo: "one against the other", edit: "your words, and they against the model's",
  token: "one word against the other", rejected: "as a text that you did not want",
};
/** @type {Record<string, string>} */
const KINDS = {
  pick: "taken from several that were shown", retry: "versions kept over others",
  undo: "taken back, and something else kept", edit: "the model's words replaced by yours",
  token: "another word in the place of one", rejected: "only rejected",
};

/**
 * @param {any} app
 * @param {{render: () => void, started: (id: string) => void}} room
 */
export function createChoices(app, room) {
  const store = runsOf(app);
  const state = {
    /** @type {{id: string, name: string, choices: number, words: number, open: boolean}[] | null} */
    stories: null,
    /** @type {{id: string, name: string, about: string}[]} */
    bases: [],
    /** @type {Set<string>} */
    chosen: new Set(),
    model: "starter",
    name: "",
    /** @type {any} */
    report: null,
    error: "",
    starting: false,
  };

  async function open() {
    try {
      const found = await app.api("GET", "/api/choices");
      state.stories = found.stories;
      state.bases = found.bases;
      // The model that writes is the one to be taught, where it was trained here.
      if (state.bases.some((one) => one.id === found.writes)) state.model = found.writes;
      if (!state.chosen.size) state.chosen = new Set(found.stories.filter((/** @type {any} */ one) => one.open && one.choices).map((/** @type {any} */ one) => one.id));
      await ask();
    } catch (/** @type {any} */ error) {
      state.error = [error.message, error.advice].filter(Boolean).join(": ");
    }
    room.render();
  }

  async function ask() {
    state.report = null;
    state.error = "";
    room.render();
    if (!state.chosen.size) return;
    try {
      state.report = await app.api("POST", "/api/choices/report", { stories: [...state.chosen] });
    } catch (/** @type {any} */ error) {
      state.error = [error.message, error.advice].filter(Boolean).join(": ");
    }
    room.render();
  }

  async function start() {
    state.starting = true;
    room.render();
    try {
      const run = await store.start("/api/choices", { stories: [...state.chosen], model: state.model, name: state.name });
      room.started(run.id);
    } catch (/** @type {any} */ error) {
      app.status(error.message, "error", error.advice);
    }
    state.starting = false;
    room.render();
  }

  function holds() {
    const found = state.report;
    if (state.error) return html`<p class="failure" role="alert">${sentence(state.error)}</p>`;
    if (!state.chosen.size) return nothing;
    if (!found) return html`<p class="quiet">Reading the choices …</p>`;
    const kinds = Object.entries(found.kinds);
    const left = Object.entries(found.left_out);
    return html`<section aria-labelledby="choices-hold"><h3 id="choices-hold">What they hold</h3>
      <p>${counted(found.usable + left.reduce((sum, [, count]) => sum + Number(count), 0), "choice")}, of which ${found.usable.toLocaleString("en")} can be used${found.inferred ? `; ${found.inferred} were read from the tree of the story, written before choices were kept` : ""}.</p>
      ${kinds.length ? html`<div class="wide" tabindex="0" role="region" aria-label="Choices by kind"><table class="figures">
        <thead><tr><th scope="col" class="text">what you did</th><th scope="col">choices</th><th scope="col">against</th><th scope="col" class="text">used as</th></tr></thead>
        <tbody>${kinds.map(([kind, one]) => html`<tr><th scope="row" class="text">${KINDS[kind] ?? kind}</th><td>${/** @type {any} */ (one).choices}</td><td>${/** @type {any} */ (one).alternatives}</td><td class="text">${USES[kind] ?? /** @type {any} */ (one).use}</td></tr>`)}</tbody></table></div>` : nothing}
      ${left.length ? html`<p class="small quiet">Left out: ${left.map(([why, count]) => `${why} (${count})`).join(", ")}.</p>` : nothing}
      <ul>${found.sentences.map((/** @type {string} */ said) => html`<li>${sentence(said)}</li>`)}</ul>
      ${found.taste ? html`<p><strong>The order of drafts:</strong> ${sentence(found.taste)}</p>` : nothing}</section>`;
  }

  return {
    open,
    show() {
      const { stories } = state;
      return html`<section class="form" aria-labelledby="choices-new"><h2 id="choices-new">Learn from my choices</h2>
        <p>Each time you take a draft, write another version, undo or change the model's words, the story keeps what you preferred to what. A model can be taught by that. Nobody can promise that it helps: drafts before and after are shown at the end, and the model that you have stays as it is.</p>
        ${stories === null ? html`<p class="quiet">${state.error || "Looking for choices …"}</p>` : html`
        <fieldset><legend>Stories</legend>${stories.length ? stories.map((story) => html`<label class="check"><input type="checkbox" .checked=${state.chosen.has(story.id)} ?disabled=${!story.choices}
          @change=${(/** @type {any} */ event) => {
            if (event.target.checked) state.chosen.add(story.id);
            else state.chosen.delete(story.id);
            void ask();
          }}><span>${story.name}${story.open ? html` <span class="quiet small">open now</span>` : nothing} <span class="quiet small">${counted(story.choices, "choice")}</span></span></label>`)
        : html`<p>No story has a choice yet. <button type="button" class="plain" @click=${() => void app.show("write")}>Write, and take some drafts</button></p>`}</fieldset>
        ${holds()}
        <div class="two">
          <label>Model to teach<select @change=${(/** @type {any} */ event) => { state.model = event.target.value; }}>
            ${state.bases.map((one) => html`<option value=${one.id} .selected=${one.id === state.model}>${one.name}</option>`)}</select></label>
          <label>Name of the run<input type="text" maxlength="120" placeholder="my choices" .value=${state.name}
            @input=${(/** @type {any} */ event) => { state.name = event.target.value; }}></label></div>
        <button type="button" class="primary" ?disabled=${!state.chosen.size || !state.report?.usable || state.starting} @click=${() => void start()}>Learn from them</button>
        <p class="small quiet">It becomes a training like the others: a model of its own, that yields to the writing and goes on when this page is closed.</p>`}
      </section>`;
    },
  };
}

/**
 * Drafts before and after a training on choices, side by side.
 * @param {{sentences: string[], guard: string | null, changed: boolean, drafts: {prompt: string, seed: number, before: string, after: string}[]}} learnt
 */
export function beforeAndAfter(learnt) {
  return html`<section aria-labelledby="learnt"><h3 id="learnt">What it learnt</h3>
    <ul>${learnt.sentences.map((said) => html`<li>${sentence(said)}</li>`)}</ul>
    ${learnt.drafts.length ? html`<h3>Drafts before and after, same seeds</h3>
    ${learnt.drafts.map((draft) => html`<div class="drafts-pair"><p class="small quiet">… ${draft.prompt.split(/\s+/).slice(-30).join(" ")}</p>
      <div class="two"><div><h4>before</h4><p class="sample">${draft.before.trim()}</p></div>
        <div><h4>after</h4><p class="sample">${draft.after.trim()}</p></div></div></div>`)}` : nothing}</section>`;
}
