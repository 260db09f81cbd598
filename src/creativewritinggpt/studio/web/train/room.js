// The room Train: trainings at the left, a new one or the chosen one at the right.
import { html, nothing, render } from "/vendor/lit-html.js";
import { element, loadStyle } from "../ui.js";
import { runList } from "../rooms/parts.js";
import { isGoing, runsOf } from "../rooms/runs.js";
import { createChoices } from "./choices.js";
import { createForm } from "./form.js";
import { createRunView } from "./run.js";

const CHOICES = "choices"; // chosen in the place of a run: learn from choices
const CHOSEN = "train.run";

/**
 * @param {HTMLElement} place
 * @param {any} app
 */
export async function mount(place, app) {
  await loadStyle("/rooms/rooms.css");
  const store = runsOf(app);
  const [options] = await Promise.all([app.api("GET", "/api/train"), store.ready]);
  place.classList.add("runs-room");
  const side = element("nav", { class: "runs-side", "aria-label": "Trainings", "data-pane": true });
  const main = element("div", { class: "runs-main", "data-pane": true });
  const formPlace = element("div");
  const runPlace = element("article", { class: "run" });
  main.append(formPlace, runPlace);
  place.append(side, main);

  const going = store.of("train").find(isGoing);
  /** @type {string | null} */
  let chosen = going?.id ?? sessionStorage.getItem(CHOSEN);
  if (chosen && chosen !== CHOICES && !store.get(chosen)) chosen = null;

  const view = createRunView(app, runPlace, { aside: () => choose(null) });
  const form = createForm(app, options, { render: draw, started: choose });
  const choices = createChoices(app, { render: draw, started: choose });

  /** @param {string | null} id */
  function choose(id) {
    chosen = id;
    if (id) sessionStorage.setItem(CHOSEN, id);
    else sessionStorage.removeItem(CHOSEN);
    draw();
    main.scrollTop = 0;
    if (id === CHOICES) void choices.open();
    else if (id) view.open(id);
  }

  function draw() {
    render(html`<button type="button" class=${chosen ? "line" : "line current"} aria-current=${chosen ? nothing : "true"}
        @click=${() => choose(null)}>New training</button>
      <button type="button" class=${chosen === CHOICES ? "line current" : "line"} aria-current=${chosen === CHOICES ? "true" : nothing}
        @click=${() => choose(CHOICES)}>Learn from my choices</button>
      ${runList(store.of("train"), chosen, choose, "No training yet.")}`, side);
    formPlace.hidden = chosen !== null && chosen !== CHOICES;
    runPlace.hidden = !formPlace.hidden;
    if (!formPlace.hidden) render(chosen === null ? form.show() : choices.show(), formPlace);
  }

  store.subscribe((run) => {
    if (run?.state === "aside" && run.id === chosen) choose(null);
    draw();
  });
  draw();
  if (chosen) choose(chosen);
  return {
    async show() {
      draw();
      view.draw();
      if (chosen === CHOICES) void choices.open();
      form.renew(await app.api("GET", "/api/train"));
      draw();
    },
    hide() {},
  };
}
