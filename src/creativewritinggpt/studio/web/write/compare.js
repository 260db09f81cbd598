// Two ways to go on, side by side with the same seed: base and tuned, or any two models, presets or
// strengths of style. Words that differ are marked; either can be taken.
import { html, nothing, render } from "/vendor/lit-html.js";
import { createQuestion } from "./question.js";
import { compareWords, runs, wish } from "./compared.js";

/**
 * @param {any} app
 * @param {any} write
 */
export function attach(app, write) {
  let state = "";
  let message = "";
  let seed = "";
  let told = ""; // the seed that was used
  const sides = ["base", "tuned"];
  const texts = ["", ""];
  /** @type {{id: string, name: string}[]} */
  let models = [];

  function presets() {
    return app.state.get().settings?.presets ?? [];
  }

  const element = document.createElement("div");
  element.className = "compare-panel";
  const cards = document.createElement("div");
  cards.className = "compare-panel";

  async function begin() {
    texts[0] = texts[1] = "";
    message = "";
    try {
      const given = seed.trim() === "" ? {} : { seed: Number(seed) };
      const body = { a: wish(sides[0]), b: wish(sides[1]), ...given };
      const answer = await question.ask(() => write.post("/api/story/compare", body));
      if (!answer) return;
      told = seed;
      state = "queued";
      write.sheet.show(cards, "Compare");
    } catch (error) {
      const { message: text, advice } = /** @type {any} */ (error);
      message = [text, advice].filter(Boolean).join(": ");
    }
    draw();
  }

  /** @param {number} row */
  async function take(row) {
    try {
      await write.post("/api/story/take", { job: question.job(), row });
      message = `Taken: ${name(sides[row])}. The other one is set aside and stays in the tree.`;
      state = "";
      question.forget();
      write.sheet.hide();
      write.view.focus();
    } catch (error) {
      const { message: text, advice } = /** @type {any} */ (error);
      message = [text, advice].filter(Boolean).join(": ");
    }
    draw();
  }

  let frame = 0;
  function drawSoon() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }

  const question = createQuestion(app, "piece", (event) => {
    if (!(event.row in texts)) return;
    texts[event.row] += event.text;
    drawSoon();
  }, (event) => {
    state = event.state;
    message = [event.message, event.advice].filter(Boolean).join(": ");
    const rows = event.rows ?? [];
    if (rows[0]?.seed !== undefined) told = String(rows[0].seed);
    rows.forEach((/** @type {any} */ row, /** @type {number} */ at) => {
      if (row.state === "done" || row.state === "stopped") texts[at] = row.text;
    });
    drawSoon();
  });

  /** @param {string} value */
  function name(value) {
    const [kind, ...rest] = value.split(" ");
    const id = rest.join(" ");
    if (kind === "model") return models.find((one) => one.id === id)?.name ?? id;
    if (kind === "preset") return `preset ${id}`;
    if (kind === "style") return `style ${id}`;
    return kind === "now" ? "as now" : kind;
  }

  /** @param {number} side */
  function chooser(side) {
    /** @param {string} value @param {string} label */
    const option = (value, label) => html`<option value=${value} ?selected=${sides[side] === value}>${label}</option>`;
    return html`<label>${side ? "and" : "Compare"}
      <select @change=${(/** @type {Event} */ event) => {
        sides[side] = /** @type {HTMLSelectElement} */ (event.target).value;
        draw();
      }}>
        ${option("base", "base model")}${option("tuned", "tuned model")}
        <optgroup label="Style">${["0.5", "1", "1.5"].map((x) => option(`style ${x}`, `style ${x}`))}</optgroup>
        <optgroup label="Preset">${presets().map((/** @type {any} */ one) => option(`preset ${one.name}`, one.name))}</optgroup>
        ${models.length ? html`<optgroup label="Model">${models.map((one) => option(`model ${one.id}`, one.name))}</optgroup>` : nothing}
      </select></label>`;
  }

  /**
   * A run of words; blanks before it are not marked, those before the whole text not shown.
   * @param {{text: string, differs: boolean}} run @param {boolean} first @param {boolean} marking
   */
  function shown(run, first, marking) {
    const bare = run.text.trimStart();
    const before = first ? "" : run.text.slice(0, run.text.length - bare.length);
    return html`${before}${run.differs && marking ? html`<mark>${bare}</mark>` : bare}`;
  }

  function draw() {
    const running = ["queued", "running"].includes(state);
    const marked = compareWords(texts[0], texts[1]);
    render(html`
      <form class="compare-choices" @submit=${(/** @type {Event} */ event) => { event.preventDefault(); void begin(); }}>
        ${chooser(0)} ${chooser(1)}
        <label>Seed <input type="number" min="0" step="1" placeholder="new" .value=${seed}
          @input=${(/** @type {Event} */ event) => { seed = /** @type {HTMLInputElement} */ (event.target).value; }}></label>
        <button type="submit">Write both</button>
        ${running ? html`<button type="button" @click=${() => app.api("DELETE", `/api/jobs/${question.job()}`)}>Stop both</button>` : nothing}
      </form>
      <p role="status" class="quiet">${message || (running ? "writing" : "")}</p>`, element);
    render(html`
      <p class="quiet">${told === "" ? nothing : html`Both with seed ${told}. `}Underlined words differ.</p>
      <div class="compare-sides">${[0, 1].map((row) => html`
        <article aria-label=${name(sides[row])}>
          <h3>${name(sides[row])}</h3>
          <p class="compare-text">${runs(marked[row]).map((run, at) => shown(run, at === 0, !running))}</p>
          <button type="button" ?disabled=${running || !texts[row]} @click=${() => take(row)}>Take this one</button>
        </article>`)}</div>`, cards);
  }

  const side = write.panel("compare", "Compare", element, { quiet: true });
  side.onToggle(async (/** @type {boolean} */ open) => {
    if (!open) return;
    try {
      const answer = await app.api("GET", "/api/models");
      models = (answer.models ?? answer).map((/** @type {any} */ one) => ({ id: one.id, name: one.name }));
    } catch {
      models = [];
    }
    draw();
  });
  write.command("Compare", () => side.toggle(), [], { title: "Two ways to go on, with the same seed" });
  draw();
  return { begin };
}
