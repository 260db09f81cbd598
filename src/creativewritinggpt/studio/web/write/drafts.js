// Several drafts of what comes next, as cards; one is taken, the others are set aside.
import { counted, element } from "../ui.js";
import { html, nothing, render, repeat } from "/vendor/lit-html.js";

/**
 * @param {import("./room.js").Write} write
 * @param {ReturnType<typeof import("./layout.js").buildLayout>} _layout
 * @param {ReturnType<typeof import("./writing.js").createWriting>} jobs
 */
export function addDrafts(write, _layout, jobs) {
  const box = element("div", { class: "drafts" });
  /** @type {{id: string, rows: {text: string, state: string}[], state: string, order: number[], learnt: string} | null} */
  let job = null;
  /** The drafts as they are shown: best first once all are written. @returns {number[]} */
  const order = () => (job ? (job.order.length ? job.order : job.rows.map((_row, at) => at)) : []);
  const bestFirst = () => write.app.state.get().settings?.best_first !== false;
  let current = 0;
  let moved = false;

  const button = write.command("Drafts", async () => {
    const count = Number(localStorage.getItem("write.drafts") ?? 3);
    const answer = await write.post("/api/story/drafts", { n: count, count });
    begin(answer.job, count);
  }, "Mod-Alt-Enter", { title: "Draft several ways on, and pick one", label: "Draft several ways on" });
  button.closest(".write-tools")?.querySelector(".group.versions")?.append(button);

  /** @param {string} id @param {number} count */
  function begin(id, count) {
    if (job?.id === id) return;
    job = { id, state: "running", order: [], learnt: "", rows: Array.from({ length: count }, () => ({ text: "", state: "running" })) };
    current = 0;
    moved = false;
    write.sheet.show(box, "Drafts");
    show();
    focus();
  }

  function focus() {
    /** @type {HTMLElement | null} */ (box.querySelector(`[role=option][data-row="${current}"]`))?.focus();
  }

  /** @param {number} place among the cards */
  async function take(place) {
    if (!job) return;
    try {
      await write.post("/api/story/take", { job: job.id, row: order()[place] });
      write.status("Taken; the other drafts are set aside among the branches.");
      job = null;
      write.sheet.hide();
      const { length } = write.view.state.doc;
      write.view.dispatch({ selection: { anchor: length }, scrollIntoView: true });
    } catch (error) {
      write.failed(error);
    }
  }

  /** @param {KeyboardEvent} event */
  function key(event) {
    if (!job) return;
    const last = job.rows.length - 1;
    const steps = { ArrowRight: current + 1, ArrowDown: current + 1, ArrowLeft: current - 1, ArrowUp: current - 1, Home: 0, End: last };
    const next = /** @type {Record<string, number>} */ (steps)[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      void take(current);
    } else if (/^[1-9]$/.test(event.key) && Number(event.key) <= last + 1) {
      current = Number(event.key) - 1;
      moved = true;
      show();
      focus();
    } else if (next !== undefined) {
      event.preventDefault();
      current = Math.min(last, Math.max(0, next));
      moved = true;
      show();
      focus();
    }
  }

  function show() {
    if (!job) return;
    const going = job.state === "running" || job.state === "queued";
    render(html`
      <div class="row wrap small quiet"><button type="button" class="primary" @click=${() => take(current)}>Take draft ${current + 1}</button>
        <span>${going ? "Writing … arrows choose, Enter takes." : "Arrows choose, Enter takes; the others are set aside."}</span>
        <label class="check push" title="Order drafts by what you took before, once that teaches something">
          <input type="checkbox" .checked=${bestFirst()} @change=${(/** @type {any} */ e) => void setBestFirst(e.target.checked)}>Best first</label>
        <label class="row">How many <input type="number" class="count-field" min="2" max="8" .value=${localStorage.getItem("write.drafts") ?? "3"}
          @change=${(/** @type {any} */ e) => e.target.checkValidity() && localStorage.setItem("write.drafts", e.target.value)}></label></div>
      <div class="cards" role="listbox" aria-label="Drafts" aria-orientation="horizontal" @keydown=${key}>
        ${repeat(order(), (row) => row, (number, at) => card(/** @type {any} */ (job).rows[number], at))}
      </div>${job.learnt && bestFirst() ? html`<p class="small quiet">${job.order.length ? "Best first: " : ""}${job.learnt}.</p>` : nothing}
      ${job.state === "failed" ? html`<p class="warn">The model could not write these.</p>` : nothing}`, box);
  }

  /** @param {{text: string, state: string}} row @param {number} at its place */
  function card(row, at) {
    return html`<div role="option" data-row=${at} class="card" aria-selected=${String(at === current)}
            aria-label=${`Draft ${at + 1}, ${counted(row.text.split(/\s+/).filter(Boolean).length, "word")}${row.state === "running" ? ", being written" : ""}: ${row.text.slice(0, 300)}`}
            tabindex=${at === current ? "0" : "-1"} @click=${() => { current = at; moved = true; show(); }} @dblclick=${() => take(at)}>
          <p class="card-text">${row.text.trim() || "…"}</p>
          <span class="small quiet figures">${counted(row.text.split(/\s+/).filter(Boolean).length, "word")}</span></div>`;
  }

  /** @param {boolean} on */
  async function setBestFirst(on) {
    try {
      await write.app.api("PATCH", "/api/settings", { best_first: on });
    } catch (error) {
      write.failed(error);
    }
  }
  write.app.events.on("settings", () => requestAnimationFrame(show));

  // The cards of an offer that waits for an answer come back after a reload or a restart.
  write.onStory((story, event) => {
    if (event.kind !== "state" || !story.offer || job) return;
    job = { id: story.offer.job, state: "done", order: story.offer.order, learnt: "", rows: story.offer.rows };
    current = 0;
    write.sheet.show(box, "Drafts");
    show();
  });

  let drawn = 0;
  jobs.onPiece((piece) => {
    if (!job || piece.job !== job.id) return;
    const row = job.rows[piece.row];
    if (!row) return;
    row.text += piece.text;
    cancelAnimationFrame(drawn);
    drawn = requestAnimationFrame(show);
  });
  jobs.onJob((one) => {
    if (one.type !== "drafts") return;
    // After a reload the cards of a running job come back with what they have.
    if (!job && ["queued", "running"].includes(one.state)) begin(one.id, one.rows?.length ?? 3);
    if (!job || one.id !== job.id) return;
    job.state = one.state;
    if (one.order?.length && !job.order.length) {
      // The best is chosen now, unless the writer has chosen already.
      const chosen = order()[current];
      job.order = one.order;
      if (moved) current = Math.max(0, job.order.indexOf(chosen));
      if (box.contains(document.activeElement)) requestAnimationFrame(focus);
    }
    job.learnt = one.learnt ?? "";
    one.rows?.forEach((row, at) => {
      const had = job?.rows[at];
      if (!had || !job) return;
      // While it is written the pieces may be ahead; at its end half a character may be cut off.
      const written = ["done", "stopped"].includes(row.state) && row.text;
      const text = written || row.text?.length >= had.text.length ? row.text : had.text;
      job.rows[at] = { ...row, text, state: row.state ?? one.state };
    });
    if (!["queued", "running"].includes(one.state)) for (const row of job.rows) row.state = one.state;
    show();
  });
}
