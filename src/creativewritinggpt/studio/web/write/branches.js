// The tree of branches, drawn; what was set aside stays in it.
import { counted, element, later } from "../ui.js";
import { html, nothing, render, svg } from "/vendor/lit-html.js";
import { latestUnder, layoutTree, normalTree } from "./tree.js";
import { sentence } from "./typed.js";

const LANE = 14; // pixels
const HEIGHT = 44;
const MOST_LANES = 8; // further ones are drawn on top of each other
const MOST_ROWS = 400; // more would not be read; the newest are shown

/**
 * @param {import("./room.js").Write} write
 * @param {ReturnType<typeof import("./writing.js").createWriting>} jobs
 */
export function addBranches(write, jobs) {
  const box = element("div");
  const panel = write.panel("branches", "Branches", box);
  /** @type {import("./tree.js").Row[]} */
  let rows = [];
  let hidden = 0;
  let focused = -1;
  /** @type {any[]} */
  let passages = [];
  /** @type {{id: string, text: string} | null} */
  let verified = null;

  /** @param {import("./tree.js").Row} row */
  async function go(row) {
    const [branch] = row.branches;
    const target = branch !== undefined ? { branch } : { passage: row.aside ? latestUnder(passages, row.id) : row.id };
    try {
      await write.post("/api/story/goto", target);
      write.status(branch !== undefined ? `On branch ${branch}.` : `Went to “${row.begins}”; Undo goes back.`);
    } catch (error) {
      write.failed(error);
    }
  }

  /** @param {KeyboardEvent} event */
  function key(event) {
    const row = rows[focused];
    /** @type {Record<string, number>} */
    const steps = {
      ArrowDown: focused + 1,
      ArrowUp: focused - 1,
      Home: 0,
      End: rows.length - 1,
      ArrowLeft: row?.parent ?? -1,
      ArrowRight: rows.findIndex((one) => one.parent === focused),
    };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (row) void go(row);
      return;
    }
    if (event.key.length === 1 && /\S/.test(event.key) && !event.ctrlKey && !event.metaKey) {
      const wanted = event.key.toLowerCase();
      const turned = [...rows.keys()].map((one) => (one + focused + 1) % rows.length);
      steps[event.key] = turned.find((one) => (rows[one].branches[0] ?? rows[one].begins).toLowerCase().startsWith(wanted)) ?? -1;
    }
    const next = steps[event.key];
    if (next === undefined || next < 0 || next >= rows.length) return;
    event.preventDefault();
    focused = next;
    show();
    box.querySelectorAll("[role=treeitem]")[next]?.scrollIntoView({ block: "nearest" });
    /** @type {HTMLElement | undefined} */ (box.querySelectorAll("[role=treeitem]")[next])?.focus();
  }

  /** @param {import("./tree.js").Row} row */
  function lines(row) {
    const x = (/** @type {number} */ lane) => Math.min(lane, MOST_LANES) * LANE + LANE / 2 + 2;
    const y = 15;
    const parent = row.parent >= 0 ? rows[row.parent] : null;
    const at = rows.indexOf(row);
    const ways = rows.filter((one) => one.parent === at);
    const own = row.current ? "lane current" : row.aside ? "lane aside" : "lane";
    const on = ways.find((one) => one.lane === row.lane) ?? ways[0];
    const bend = parent ? `M${x(parent.lane)} 0C${x(parent.lane)} ${y - 4} ${x(row.lane)} ${y - 10} ${x(row.lane)} ${y}` : "";
    return svg`<g>
      ${row.through.map(({ lane, current }) => svg`<path class=${current ? "lane current" : "lane"} d="M${x(lane)} 0V${HEIGHT}"/>`)}
      ${parent ? svg`<path class=${own} d=${parent.lane === row.lane ? `M${x(row.lane)} 0V${y}` : bend}/>` : nothing}
      ${on ? svg`<path class=${on.current ? "lane current" : on.aside ? "lane aside" : "lane"} d="M${x(row.lane)} ${y}V${HEIGHT}"/>` : nothing}
      ${row.by.includes("model")
        ? svg`<circle class=${row.aside ? "dot model aside" : "dot model"} cx=${x(row.lane)} cy=${y} r="4"/>`
        : svg`<rect class=${row.aside ? "dot aside" : "dot"} x=${x(row.lane) - 3.5} y=${y - 3.5} width="7" height="7" rx="1"/>`}
    </g>`;
  }

  /** @param {import("./tree.js").Row} row */
  function describe(row) {
    const who = row.by.includes("model") ? (row.by.length > 1 ? "you and the model" : "the model") : row.by[0] === "chapter" ? "chapter" : "you";
    return [who, counted(row.words, "word"), row.aside ? "set aside" : ""].filter(Boolean).join(" · ");
  }

  function show() {
    const width = (Math.min(MOST_LANES, Math.max(0, ...rows.map((row) => Math.max(row.lane, ...row.through.map((one) => one.lane))))) + 1) * LANE + 6;
    const story = write.story();
    const stop = focused < 0 ? rows.length - 1 : focused;
    render(html`
      ${here()}
      ${hidden ? html`<p class="quiet small">The newest ${MOST_ROWS} of ${MOST_ROWS + hidden} places.</p>` : nothing}
      <div role="tree" aria-label="Branches" @keydown=${key}>
        ${rows.map((row, at) => html`<div role="treeitem" class=${row.current ? "node current" : row.aside ? "node aside" : "node"}
            aria-level=${row.level} aria-posinset=${row.place} aria-setsize=${row.siblings}
            aria-selected=${row.branches.includes(story.branch) ? "true" : "false"}
            tabindex=${at === stop ? "0" : "-1"} @focus=${() => { focused = at; }} @click=${() => go(row)}>
          <svg class="lanes" width=${width} height=${HEIGHT} aria-hidden="true">${lines(row)}</svg>
          <span class="what"><span class="first">${row.branches.map((name) => html`<b class="branch">${name}</b> `)}${row.begins || "(empty line)"}</span>
          <span class="quiet small figures">${describe(row)}</span></span></div>`)}
      </div>
      ${rows.length ? nothing : html`<p class="quiet">The story begins with your first line. Every other way it takes is kept here.</p>`}`, box);
  }

  /** The passage at the caret: who, seed, version, and the proof that it can be made again. */
  function here() {
    const found = write.passageAt(write.view.state.selection.main.head);
    if (!found) return nothing;
    const { passage } = found;
    const version = passage.versions > 1 ? `one of ${passage.versions} versions` : "";
    const text = passage.by === "model" ? ["By the model", passage.seed === null ? "" : `seed ${passage.seed}`, version]
      : [passage.by === "chapter" ? "A heading" : "By you", version];
    return html`<div class="here"><p class="small">At the caret: ${text.filter(Boolean).join(" · ")}
        ${passage.by === "model" ? html`<button type="button" class="plain" title="Write it again from its record and compare"
          @click=${() => verify(passage.id)}>Verify</button>` : nothing}</p>
      ${verified ? html`<p class="small" role="note">${verified.text}</p>` : nothing}</div>`;
  }

  /** @param {number} passage */
  async function verify(passage) {
    try {
      verified = { id: "", text: "Making it again …" };
      show();
      const answer = await write.post("/api/story/verify", { passage });
      verified.id = answer.job;
    } catch (error) {
      verified = null;
      show();
      write.failed(error);
    }
  }
  jobs.onJob((job) => {
    if (job.type !== "verify" || !verified || !["done", "stopped", "failed"].includes(job.state)) return;
    const row = job.rows?.[0];
    const sign = row?.equal === true ? "Made again: equal. " : row?.equal === false ? "Made again: different. " : "";
    const message = job.message ?? "";
    verified.text = sentence(message.toLowerCase().startsWith("made again") ? message : `${sign}${message}` || "Stopped.");
    write.status(verified.text);
    if (panel.isOpen()) show();
  });

  const fetchTree = later(async () => {
    if (!panel.isOpen()) return;
    try {
      ({ passages } = normalTree(await write.app.api("GET", "/api/story/tree")));
      const all = layoutTree(passages, write.story().branch);
      hidden = Math.max(0, all.length - MOST_ROWS);
      rows = all.slice(hidden).map((row) => ({ ...row, parent: Math.max(-1, row.parent - hidden) }));
      focused = rows.findIndex((row) => row.branches.includes(write.story().branch));
      show();
    } catch (error) {
      write.failed(error);
    }
  }, 150);
  const showHere = later(() => panel.isOpen() && show(), 150);

  panel.onToggle((open) => open && fetchTree());
  write.onStory((_story, event) => {
    if (event.kind === "state" || event.patch?.passages || event.patch?.branches || event.patch?.branch) fetchTree();
  });
  write.onUpdate((update) => {
    if (!update.selectionSet) return;
    if (verified && update.transactions.some((one) => one.isUserEvent("select"))) verified = null;
    showHere();
  });
}
