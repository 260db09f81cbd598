// Keys of the page: their names, what they do, and the list that `?` opens.
const MAC = /Mac|iPhone|iPad/.test(navigator.platform);

/** A key event as its name: `Mod-Shift-Enter`. @param {KeyboardEvent} event */
export function nameOf(event) {
  const parts = [];
  if (MAC ? event.metaKey : event.ctrlKey) parts.push("Mod");
  if (event.altKey) parts.push("Alt");
  if (event.shiftKey && event.key !== "?") parts.push("Shift");
  parts.push(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  return parts.join("-");
}

/** A name as people read it: `Ctrl+Shift+Enter`. @param {string} name */
export function readable(name) {
  return name
    .split(/-(?!$)/)
    .map((part) => ({ Mod: MAC ? "⌘" : "Ctrl", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←",
      ArrowRight: "→", Escape: "Esc" })[part] ?? (part.length === 1 ? part.toUpperCase() : part))
    .join("+");
}

/** Whether the focus is where letters are typed. */
function typing() {
  const at = document.activeElement;
  return at instanceof HTMLElement && (at.isContentEditable ||
    at.matches("textarea, select, input:not([type=checkbox], [type=range], [type=radio])"));
}

/**
 * A key and what it does.
 * @typedef {object} Entry
 * @property {string} usual its name
 * @property {string} key the name that was chosen for it
 * @property {string} label
 * @property {((event: KeyboardEvent) => unknown) | null} run
 * @property {() => boolean} when
 */

const KEPT = "keys"; // in this browser: a chosen key for each usual one that was changed

/** @returns {Record<string, string>} */
function chosenKeys() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    return found && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

/**
 * Why a key can't be chosen; null if it can.
 * @param {string} name
 * @param {Entry} entry
 * @param {Entry[]} entries
 */
export function refusal(name, entry, entries) {
  if (/^(Mod-)?(Shift-)?[^-]$/.test(name) && !name.startsWith("Mod-") && name !== entry.usual) {
    return "A letter alone is typed; add Ctrl, Cmd or Alt.";
  }
  if (["Tab", "Shift-Tab", "Enter", "Shift-Enter", "Mod-r", "Mod-w", "Mod-t", "Mod-n"].includes(name)) {
    return "The browser and the text need this key.";
  }
  const other = entries.find((one) => one.key === name && one.label !== entry.label);
  return other ? `This is the key of “${other.label}”.` : null;
}

/** The keys of the page, which all rooms share. */
export function createKeys() {
  /** @type {Entry[]} */
  const entries = [];

  /**
   * Add a key, anywhere in the page; the last one added that applies wins.
   * @param {string} name such as `Mod-Enter`
   * @param {string} label what it does, for the list
   * @param {((event: KeyboardEvent) => unknown) | null} run null: it is only listed (the editor has it);
   *   returns false where it did nothing
   * @param {() => boolean} [when] whether it applies now
   */
  function add(name, label, run, when = () => true) {
    const key = run ? chosenKeys()[name] ?? name : name;
    entries.push({ usual: name, key, label, run, when });
  }

  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    const name = nameOf(event);
    if (event.key.length === 1 && !name.includes("Mod-") && !name.includes("Alt-") && typing()) return;
    for (const entry of [...entries].reverse()) {
      if (entry.key !== name || !entry.when()) continue;
      if (entry.run && entry.run(event) !== false) event.preventDefault();
      return;
    }
  });

  /** Choose another key for what a usual one does. @param {string} usual @param {string} key */
  function choose(usual, key) {
    const { [usual]: _before, ...rest } = chosenKeys();
    localStorage.setItem(KEPT, JSON.stringify(key === usual ? rest : { ...rest, [usual]: key }));
    for (const entry of entries) if (entry.run && entry.usual === usual) entry.key = key;
  }

  /** @param {HTMLElement} dialog @param {HTMLElement} list @param {HTMLElement} opener @param {HTMLElement} closer */
  function setUpDialog(dialog, list, opener, closer) {
    const box = /** @type {HTMLDialogElement} */ (dialog);
    /** @type {Entry | null} */
    let changing = null;
    let said = "";

    /** @param {Entry} entry @param {HTMLTableRowElement} row */
    function addButton(entry, row) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "plain";
      const changed = entry.key !== entry.usual;
      button.textContent = changing === entry ? "Press the key, Esc leaves it" : changed ? "Reset" : "Change";
      button.setAttribute("aria-label", `${button.textContent}: ${entry.label}`);
      button.addEventListener("click", () => {
        said = "";
        if (changed) choose(entry.usual, entry.usual);
        else changing = entry;
        draw(entry);
      });
      row.insertCell().append(button);
    }

    /** @param {Entry} [focus] the entry whose button gets the focus */
    function draw(focus) {
      const table = document.createElement("table");
      const seen = new Set();
      for (const entry of entries) {
        const id = `${entry.key} ${entry.label}`;
        if (seen.has(id)) continue;
        seen.add(id);
        const row = table.insertRow();
        const head = document.createElement("th");
        head.scope = "row";
        const key = document.createElement("kbd");
        key.textContent = readable(entry.key);
        head.append(key);
        row.append(head);
        row.insertCell().textContent = entry.label;
        if (entry.run) addButton(entry, row);
        if (entry === focus) queueMicrotask(() => row.querySelector("button")?.focus());
      }
      const note = document.createElement("p");
      note.setAttribute("role", "note");
      note.textContent = said;
      list.replaceChildren(table, note);
    }

    box.addEventListener("keydown", (event) => {
      if (!changing || ["Control", "Shift", "Alt", "Meta"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      const entry = changing;
      const name = nameOf(event);
      if (name !== "Escape") {
        said = refusal(name, entry, entries) ?? "";
        if (!said) choose(entry.usual, name);
      }
      if (!said) changing = null;
      draw(entry);
    }, true);
    box.addEventListener("cancel", (event) => {
      if (changing) event.preventDefault();
    });
    box.addEventListener("close", () => {
      changing = null;
      said = "";
    });
    const open = () => {
      if (box.open) return;
      draw();
      box.showModal();
    };
    opener.addEventListener("click", open);
    closer.addEventListener("click", () => box.close());
    add("?", "This list", open);
  }

  return { add, setUpDialog };
}
