// Memory, author's note and world info: what the model is told beside the text.
import { counted, element, later } from "../ui.js";
import { html, live, nothing, render } from "/vendor/lit-html.js";
import { splitKeys } from "./typed.js";

/**
 * An entry of world info.
 * @typedef {object} Lore
 * @property {string[]} keys
 * @property {string} text
 * @property {boolean} always
 * @property {string[]} secondary
 * @property {string[]} excluding
 * @property {number} probability
 */

/** @param {import("./room.js").Write} write */
export function addMemory(write) {
  const box = element("div");
  const panel = write.panel("memory", "Memory", box);

  /** @param {"memory" | "note"} name */
  const saver = (name) => later((/** @type {string} */ text) => {
    write.post("/api/story/set", { [name]: text })
      .then(() => write.status(`${name === "memory" ? "Memory" : "Note"} saved.`), write.failed);
  }, 600);
  const save = { memory: saver("memory"), note: saver("note") };

  /** @param {"memory" | "note"} name @param {string} title @param {string} help */
  function field(name, title, help) {
    const editing = box.querySelector(`textarea[name=${name}]`) === document.activeElement;
    const take = (/** @type {Event} */ event) => save[name](/** @type {HTMLTextAreaElement} */ (event.target).value);
    return html`<label class="field"><span class="label">${title}</span>
      <textarea name=${name} rows=${name === "memory" ? 8 : 3} spellcheck="true" placeholder=${help}
        .value=${editing ? live(/** @type {any} */ (document.activeElement).value) : write.story()[name] ?? ""}
        @input=${take} @blur=${() => save[name].now()}></textarea></label>`;
  }

  const show = () => render(html`
    ${field("memory", "Memory", "Who, where, what must not be forgotten. It stands before everything else the model sees.")}
    ${field("note", "Author's note", "A hint near the end of what the model sees: the mood, what comes next.")}`, box);
  panel.onToggle((open) => {
    if (open) show();
    else for (const one of Object.values(save)) one.now();
  });
  write.onStory((_story, event) => {
    if (panel.isOpen() && (event.kind === "state" || "memory" in (event.patch ?? {}) || "note" in (event.patch ?? {}))) show();
  });
}

/** @param {import("./room.js").Write} write */
export function addWorld(write) {
  const box = element("div");
  const panel = write.panel("world", "World", box);
  let open = -1;

  /** @returns {Lore[]} */
  const entries = () => write.story().lore ?? [];

  let saving = Promise.resolve();

  /**
   * Save a change of what is there when all changes before it have been made.
   * @param {(lore: Lore[]) => Lore[]} change
   * @param {string} said
   */
  function save(change, said) {
    saving = saving.then(async () => {
      try {
        const { n } = await write.post("/api/story/set", { lore: change(entries()) });
        for (let tries = 0; tries < 100 && write.app.events.n < n; tries++) {
          await new Promise((go) => setTimeout(go, 20)); // its event is on its way
        }
        write.status(said);
      } catch (error) {
        write.failed(error);
      }
    });
    return saving;
  }

  /** @param {number} at @param {Partial<Lore>} change */
  const change = (at, change) => save((lore) => lore.map((one, index) => (index === at ? { ...one, ...change } : one)), "World info saved.");

  async function add() {
    await save((lore) => {
      open = lore.length;
      return [...lore, { keys: [], text: "", always: false, secondary: [], excluding: [], probability: 100 }];
    }, "A new entry; give it key words.");
    show();
    /** @type {HTMLElement | null} */ (box.querySelector(".entry.open input"))?.focus();
  }

  /** @param {number} at */
  async function remove(at) {
    open = -1;
    await save((lore) => lore.filter((_one, index) => index !== at), "Entry taken out; Undo brings it back.");
  }

  const value = (/** @type {Event} */ event) => /** @type {HTMLInputElement} */ (event.target).value;

  /** @param {Lore} one @param {number} at */
  function entry(one, at) {
    const expanded = at === open;
    return html`<li class=${expanded ? "entry open" : "entry"}>
      <button type="button" class="head" aria-expanded=${String(expanded)} @click=${() => { open = expanded ? -1 : at; show(); }}>
        <span>${one.keys.join(", ") || (one.always ? "Always" : "No key words")}</span>
        <span class="quiet small">${one.always ? "always" : one.probability !== 100 ? `${one.probability} %` : ""}</span></button>
      ${expanded ? html`<div class="fields">
        <label class="field"><span class="label">Key words</span><input .value=${one.keys.join(", ")}
          placeholder="lantern, /ledgers?/i, ferry & night" @change=${(/** @type {Event} */ e) => change(at, { keys: splitKeys(value(e)) })}></label>
        <label class="field"><span class="label">Text</span><textarea rows="4" spellcheck="true" .value=${one.text}
          @change=${(/** @type {Event} */ e) => change(at, { text: value(e) })}></textarea></label>
        <label class="check"><input type="checkbox" .checked=${live(one.always)}
          @change=${(/** @type {Event} */ e) => change(at, { always: /** @type {HTMLInputElement} */ (e.target).checked })}> Always in view</label>
        <details ?open=${one.secondary.length > 0 || one.excluding.length > 0 || one.probability !== 100}><summary>More conditions</summary>
          <label class="field"><span class="label">And one of</span><input .value=${one.secondary.join(", ")}
            @change=${(/** @type {Event} */ e) => change(at, { secondary: splitKeys(value(e)) })}></label>
          <label class="field"><span class="label">But none of</span><input .value=${one.excluding.join(", ")}
            @change=${(/** @type {Event} */ e) => change(at, { excluding: splitKeys(value(e)) })}></label>
          <label class="field"><span class="label">Probability, in percent</span><input type="number" min="0" max="100" .value=${String(one.probability)}
            @change=${(/** @type {Event} */ e) => change(at, { probability: Math.round(Number(value(e))) })}></label>
        </details>
        <button type="button" class="plain" @click=${() => remove(at)}>Take out</button>
      </div>` : nothing}</li>`;
  }

  const show = () => render(html`
    ${entries().length ? html`<p class="quiet small">${counted(entries().length, "entry").replace("entrys", "entries")}. One is in view while a key word of it is near the end.</p>`
      : html`<p class="quiet">People, places, things. An entry is shown to the model while one of its key words is near the end of the text.</p>`}
    <ul class="lore">${entries().map(entry)}</ul>
    <button type="button" class="line" @click=${add}>New entry</button>`, box);
  panel.onToggle((is) => is && show());
  write.onStory((_story, event) => {
    if (panel.isOpen() && (event.kind === "state" || "lore" in (event.patch ?? {}))) show();
  });
}
