// One training: how it goes, its curves with the same numbers as a table, its samples, what to do.
import { html, nothing, render } from "/vendor/lit-html.js";
import { element, later } from "../ui.js";
import { failure, sentence, showLog, stopButton } from "../rooms/parts.js";
import { duration, isGoing, ranFor, runsOf, stateOf } from "../rooms/runs.js";
import { createChart } from "./chart.js";
import { beforeAndAfter } from "./choices.js";
import { domainLines, lossLines, rateLines, tableOf } from "./curves.js";

/** @typedef {import("./curves.js").Curves} Curves */
/** @typedef {import("../rooms/runs.js").Run} Run */

const CHARTS = [
  { name: "loss", title: "Loss", unit: "nats per token", lines: lossLines },
  { name: "domains", title: "Validation by source", unit: "nats per token", lines: domainLines },
  { name: "rate", title: "Learning rate", unit: "learning rate", lines: rateLines },
];

/**
 * @param {any} app
 * @param {HTMLElement} place
 * @param {{aside: () => void}} room
 */
export function createRunView(app, place, room) {
  const store = runsOf(app);
  const head = element("div");
  const charts = element("div", { class: "charts" });
  const rest = element("div");
  place.append(head, charts, rest);
  /** @type {Curves | null} */
  let curves = null;
  /** @type {any} what a training on choices came to */
  let learnt = null;
  /** @type {string | null} */
  let id = null;
  let log = false;
  let seen = "";
  const drawn = CHARTS.map((chart) => makeChart(chart));

  /** @param {typeof CHARTS[0]} chart */
  function makeChart(chart) {
    const canvas = element("div", { class: "canvas", "aria-hidden": "true" });
    const legend = element("p", { class: "legend small" });
    const figure = element("figure", { "aria-label": chart.title }, element("figcaption", {}, chart.title), legend, canvas);
    charts.append(figure);
    /** @type {number | null} */
    let at = null;
    const plot = createChart(canvas, { unit: chart.unit, onPoint(index) {
      at = index;
      if (curves) label(shownOf(curves));
    } });
    /** @param {Curves} shown */
    function shownOf(shown) {
      const made = chart.lines(shown);
      if (!log || made.x[0] !== 0) return made;
      // There is no place for step 0 on a logarithmic axis.
      return { x: made.x.slice(1), lines: made.lines.map((line) => ({ ...line, values: line.values.slice(1) })) };
    }
    /** @param {ReturnType<typeof lossLines>} made */
    function label(made) {
      const step = at === null ? null : made.x[at];
      render(html`${made.lines.map((line) => {
        const known = line.values.filter((value) => value !== null);
        const value = at === null ? known.at(-1) : line.values[at];
        return html`<span class="key"><i data-colour=${line.colour} class=${line.dash ? "dashed" : ""}></i>${line.label}
          <span class="figures">${value === null || value === undefined ? "" : chart.name === "rate" ? value.toExponential(1) : value.toFixed(3)}</span></span>`;
      })}${step === null || step === undefined ? nothing : html`<span class="quiet">at step ${step}</span>`}`, legend);
    }
    return {
      draw() {
        const enough = curves !== null && curves.steps.length + curves.validations.length > 1 &&
          (chart.name !== "domains" || curves.domains.length > 1);
        figure.hidden = !enough;
        if (!enough || !curves) return;
        const made = shownOf(curves);
        plot.draw(made.x, made.lines, log);
        label(made);
      },
    };
  }

  async function fetchCurves() {
    if (!id) return;
    const wanted = id;
    const run = store.get(wanted);
    if (run?.about.choices && !isGoing(run) && run.state === "done") {
      learnt = await app.api("GET", `/api/choices/${wanted}`);
    }
    const found = await app.api("GET", `/api/runs/${wanted}/curves`);
    if (wanted !== id) return;
    curves = found;
    draw();
  }
  const refetch = later(() => void fetchCurves(), 250);

  function draw() {
    for (const chart of drawn) chart.draw();
    const run = id ? store.get(id) : null;
    if (!run) return;
    render(header(run), head);
    render(below(run), rest);
  }

  /** @param {Run} run */
  function header(run) {
    const going = isGoing(run);
    return html`<header class="run-head"><h2>${run.name}</h2>
        <p class="small quiet">${[run.about.model, run.about.adapter ? "going on from an adapter" : "", run.about.recipe && `recipe ${run.about.recipe}`,
          ...(run.about.files ?? []), ...(run.about.sources ?? [])].filter(Boolean).join(" · ")}</p></header>
      <p class="run-state" data-state=${run.state}><span role="status">${sentence(stateOf(run))}</span>
        ${run.phase ? html`<span class="quiet figures">${duration(ranFor(run))} so far</span>` : nothing}</p>
      ${going && run.total_steps && !run.phase ? html`<progress max=${run.total_steps} value=${run.step ?? 0} aria-label="Steps"></progress>` : nothing}
      ${run.phase ? html`<progress aria-label="Before the first figures"></progress>
        <p class="small quiet">Curves and samples begin with the first step; reading and loading can take a minute.</p>` : nothing}
      ${failure(app, run)}
      <div class="row wrap">
        ${run.model ? html`<button type="button" class=${going ? "line" : "primary"} @click=${() => void writeWith(run)}>Write with it</button>` : nothing}
        ${stopButton(app, run)}
        ${run.resumable ? html`<button type="button" class="line" @click=${() => void resume(run)}>Resume</button>` : nothing}
        <button type="button" class="line" @click=${() => void showLog(app, run)}>Log</button>
        ${going ? nothing : html`<button type="button" class="line" @click=${() => void setAside(run)}>Set aside</button>`}
        ${curves && curves.steps.length > 2 ? html`<label class="check push"><input type="checkbox" .checked=${log} @change=${(/** @type {any} */ event) => {
          log = event.target.checked;
          draw();
        }}>Logarithmic steps</label>` : nothing}
      </div>
      ${learnt ? beforeAndAfter(learnt) : nothing}
      ${run.sentence && (run.step || !going) ? html`<p>${run.sentence}</p>` : nothing}`;
  }

  /** @param {Run} run */
  function below(run) {
    if (!curves) return nothing;
    const rows = tableOf(curves);
    return html`${rows.length ? html`<details><summary>The numbers of the curves</summary>
        <div class="wide" tabindex="0" role="region" aria-label="The numbers of the curves"><table class="figures">
        <caption class="small quiet">Loss in nats per token; training is the mean since the validation before. Base model: ${curves.base?.toFixed(4) ?? "not yet known"}.</caption>
        <thead><tr><th scope="col">step</th><th scope="col">training</th><th scope="col">validation</th>${curves.domains.length > 1 ? curves.domains.map((name) => html`<th scope="col">${name}</th>`) : nothing}</tr></thead>
        <tbody>${rows.map((row) => html`<tr><th scope="row">${row.step}${row.step === curves?.best?.step ? " (best)" : ""}</th><td>${row.training?.toFixed(4) ?? ""}</td><td>${row.validation.toFixed(4)}</td>
          ${curves && curves.domains.length > 1 ? row.domains.map((value) => html`<td>${value?.toFixed(4) ?? ""}</td>`) : nothing}</tr>`)}</tbody></table></div></details>` : nothing}
      ${samples(curves)}
      ${Object.keys(run.about.changed ?? {}).length ? html`<details><summary>Settings that were changed</summary><dl class="small">
        ${Object.entries(run.about.changed).map(([name, value]) => html`<dt>${name.replaceAll("_", " ")}</dt><dd>${String(value)}</dd>`)}</dl></details>` : nothing}
      ${run.state === "done" ? html`<p class="small quiet">It took ${duration(run.seconds)}. The files are in ${/** @type {any} */ (run).model_path ?? "outputs"}.</p>` : nothing}`;
  }

  /** @param {Curves} shown */
  function samples(shown) {
    const steps = [...new Set(shown.samples.map((sample) => sample.step))].reverse();
    if (!steps.length) return nothing;
    return html`<section aria-labelledby="run-samples"><h3 id="run-samples">What it writes meanwhile</h3>
      ${steps.map((step, place) => html`<details ?open=${place === 0}><summary>${step === 0 ? "before the training" : `step ${step}`}</summary>
        ${shown.samples.filter((sample) => sample.step === step).map((sample) => html`<p class="sample">${sample.prompt} <span class="by-it">${sample.text.trim()}</span></p>`)}
      </details>`)}</section>`;
  }

  /** @param {Run} run */
  async function writeWith(run) {
    await app.api("PATCH", "/api/model", { id: run.model });
    app.status(`${run.name} is loaded; then it writes.`);
    await app.show("write");
  }

  /** @param {Run} run */
  async function resume(run) {
    await store.start(`/api/runs/${run.id}/resume`, {});
    curves = null;
    refetch();
  }

  /** @param {Run} run */
  async function setAside(run) {
    await app.api("DELETE", `/api/runs/${run.id}`);
    app.status(`${run.name} is set aside; its files stay, and the Library brings it back.`);
    room.aside();
  }

  store.subscribe((run) => {
    if (!id || place.hidden || (run && run.id !== id)) return;
    const now = store.get(id);
    const what = JSON.stringify([now?.step, now?.state, now?.validations, now?.samples]);
    draw();
    if (what !== seen) refetch();
    seen = what;
  });

  // Until the first figures nothing else shows that it goes on.
  setInterval(() => {
    const run = id && !place.hidden && place.offsetParent ? store.get(id) : null;
    if (run?.phase) draw();
  }, 1000);

  return {
    /** @param {string} wanted */
    open(wanted) {
      if (wanted !== id) curves = learnt = null;
      id = wanted;
      seen = "";
      draw();
      void fetchCurves();
    },
    draw,
  };
}
