// What the model sees: a rule in the margin where its view begins, and a panel with all parts of it.
import { element, grouped, later } from "../ui.js";
import { EditorView } from "/vendor/codemirror.js";
import { html, nothing, render } from "/vendor/lit-html.js";
import { setViewStart } from "./editor.js";

const PARTS = { memory: "Memory", lore: "World", note: "Note", text: "Text" };

/**
 * @param {import("./room.js").Write} write
 * @param {ReturnType<typeof import("./writing.js").createWriting>} jobs
 */
export function addModelView(write, jobs) {
  const box = element("div");
  const panel = write.panel("view", "Model's view", box);
  /** @type {any} */
  let context = null;
  let asking = false;
  let again = false;

  async function fetchContext() {
    const { model } = write.app.state.get();
    if (model?.state !== "ready") {
      context = null;
      if (panel.isOpen()) show(model?.state === "loading" ? "Once the model is loaded, this shows what it sees." : "There is no model yet.");
      return;
    }
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    try {
      context = await write.app.api("GET", "/api/story/context");
      const start = context.start > 0 ? write.toShown(context.start) : 0;
      write.view.dispatch({ effects: setViewStart.of(start) });
      if (panel.isOpen()) show();
    } catch (error) {
      // Without a model there is no view yet; the panel says so.
      context = null;
      if (panel.isOpen()) show(/** @type {any} */ (error).message);
    } finally {
      asking = false;
      if (again) {
        again = false;
        soon();
      }
    }
  }
  const soon = later(() => void fetchContext(), 700);

  /** @param {string} [why] */
  function show(why) {
    if (!context) {
      render(html`<p class="quiet">${why ?? "Asking the model …"}</p>`, box);
      return;
    }
    const { tokens, used, context_length: length, left_out: out = [], lore = [] } = context;
    const names = /** @type {(keyof typeof PARTS)[]} */ (Object.keys(PARTS));
    const sentence = names.filter((name) => tokens[name]).map((name) => `${PARTS[name].toLowerCase()} ${grouped(tokens[name])}`).join(", ");
    render(html`
      <svg class="gauge" viewBox="0 0 100 4" preserveAspectRatio="none" role="img"
        aria-label=${`${used} of ${length} tokens: ${sentence}`}>${bars(tokens, length, names)}</svg>
      <p class="figures small">${grouped(used)} of ${grouped(length)} tokens</p>
      <table class="parts figures"><tbody>${names.map((name) => html`<tr class=${`part-${name}`}>
        <th scope="row">${PARTS[name]}</th><td>${grouped(tokens[name] ?? 0)}</td>
        <td class="quiet">${name === "lore" && lore.length ? lore.map(nameOf).join(", ") : ""}</td></tr>`)}</tbody></table>
      ${out.length ? html`<p class="warn small">Left out for want of room: ${out.map(nameOf).join(", ")}.</p>` : nothing}
      ${context.start > 0 ? html`<p class="small quiet">The text before the rule in the margin is not seen.
        <button type="button" class="plain" @click=${toStart}>Show where</button></p>`
        : html`<p class="small quiet">The whole text is in view.</p>`}
      <details><summary>Exactly what it sees</summary><pre class="seen" tabindex="0" aria-label="What the model sees">${context.view}</pre></details>`, box);
  }

  function toStart() {
    const place = write.toShown(context.start);
    write.view.dispatch({ effects: EditorView.scrollIntoView(place, { y: "center" }) });
  }

  panel.onToggle((open) => {
    if (!open) return;
    show();
    void fetchContext();
  });
  write.onStory((_story, event) => {
    const { changes, patch = {} } = event;
    if (event.kind !== "state" && changes?.length === 0 && !("passages" in patch || "memory" in patch || "note" in patch || "lore" in patch)) return;
    if (jobs.current() === null) soon();
  });
  jobs.onJob((job) => {
    if (job.state === "done" || job.state === "stopped") soon();
  });
  write.app.events.on("model", soon);
}

/** @param {any} one a name, or a part with its name */
function nameOf(one) {
  return typeof one === "string" ? one : one.name ?? String(one);
}

/** @param {Record<string, number>} tokens @param {number} length @param {(keyof typeof PARTS)[]} names */
function* bars(tokens, length, names) {
  let from = 0;
  for (const name of names) {
    const width = ((tokens[name] ?? 0) / length) * 100;
    if (width > 0) yield rectangle(name, from, width);
    from += width;
  }
}

/** @param {string} name @param {number} from @param {number} width */
function rectangle(name, from, width) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  made.setAttribute("class", `part-${name}`);
  made.setAttribute("x", String(from));
  made.setAttribute("width", String(width));
  made.setAttribute("height", "4");
  return made;
}
