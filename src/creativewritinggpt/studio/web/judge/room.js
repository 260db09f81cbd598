// The room Judge: evaluations, the originality of the story at hand, trainings side by side.
import { html, nothing, render } from "/vendor/lit-html.js";
import { element, loadStyle } from "../ui.js";
import { runList } from "../rooms/parts.js";
import { runsOf } from "../rooms/runs.js";
import { createComparison } from "./comparison.js";
import { createEvaluations } from "./evaluations.js";
import { createOriginality } from "./originality.js";

/**
 * @param {HTMLElement} place
 * @param {any} app
 */
export async function mount(place, app) {
  await loadStyle("/rooms/rooms.css");
  const store = runsOf(app);
  let [options] = await Promise.all([app.api("GET", "/api/judge"), store.ready]);
  place.classList.add("runs-room");
  const side = element("nav", { class: "runs-side", "aria-label": "What is judged", "data-pane": true });
  const main = element("div", { class: "runs-main", "data-pane": true });
  place.append(side, main);
  /** @type {{name: string, run: string | null}} */
  const way = { name: "evaluate", run: null };

  const ways = {
    evaluate: createEvaluations(app, { render: draw, options: () => options, choose: (id) => go("evaluate", id) }),
    originality: createOriginality(app, { render: draw, options: () => options }),
    compare: createComparison(app, { render: draw }),
  };

  /** @param {string} name @param {string | null} [run] */
  function go(name, run = null) {
    way.name = name;
    way.run = run;
    if (name === "compare") void ways.compare.load();
    if (run) void ways.evaluate.open(run);
    draw();
    main.scrollTop = 0;
  }

  /** @param {string} name @param {string} label */
  function choice(name, label) {
    const current = way.name === name && !way.run;
    return html`<button type="button" class=${current ? "line current" : "line"} aria-current=${current ? "true" : nothing}
      @click=${() => go(name)}>${label}</button>`;
  }

  function draw() {
    render(html`${choice("evaluate", "New evaluation")}${choice("originality", "Originality of the story")}${choice("compare", "Compare trainings")}
      ${runList(store.of("evaluate"), way.run, (id) => go("evaluate", id), "No evaluation yet.")}`, side);
    const shown = way.name === "originality" ? ways.originality.show()
      : way.name === "compare" ? ways.compare.show() : ways.evaluate.show(way.run);
    render(html`<div class=${way.name === "compare" ? "judge broad" : "judge"}>${shown}</div>`, main);
  }

  store.subscribe((run) => {
    if (run?.state === "aside" && run.id === way.run) go("evaluate");
    else draw();
  });
  draw();
  return {
    async show() {
      options = await app.api("GET", "/api/judge");
      if (way.name === "compare") void ways.compare.load();
      draw();
    },
    hide() {},
    /** @param {string} model its id */
    judge(model) {
      ways.evaluate.choose(model);
      go("evaluate");
    },
  };
}
