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

/** The keys of the page, which all rooms share. */
export function createKeys() {
  /** @type {Map<string, {label: string, run: (event: KeyboardEvent) => unknown, when: () => boolean}[]>} */
  const bound = new Map();

  /**
   * Add a key, anywhere in the page; the last one added that applies wins.
   * @param {string} name such as `Mod-Enter`
   * @param {string} label what it does, for the list
   * @param {((event: KeyboardEvent) => unknown) | null} run null: it is only listed (the editor has it);
   *   returns false where it did nothing
   * @param {() => boolean} [when] whether it applies now
   */
  function add(name, label, run, when = () => true) {
    const list = bound.get(name) ?? [];
    list.push({ label, run: run ?? (() => false), when });
    bound.set(name, list);
  }

  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    const name = nameOf(event);
    if (event.key.length === 1 && !name.includes("Mod-") && !name.includes("Alt-") && typing()) return;
    for (const entry of [...(bound.get(name) ?? [])].reverse()) {
      if (!entry.when()) continue;
      if (entry.run(event) !== false) event.preventDefault();
      return;
    }
  });

  /** @param {HTMLElement} dialog @param {HTMLElement} list @param {HTMLElement} opener @param {HTMLElement} closer */
  function setUpDialog(dialog, list, opener, closer) {
    const box = /** @type {HTMLDialogElement} */ (dialog);
    const open = () => {
      if (box.open) return;
      const table = document.createElement("table");
      for (const [name, entries] of bound) {
        for (const label of new Set(entries.map((entry) => entry.label))) {
          const row = table.insertRow();
          const key = document.createElement("kbd");
          key.textContent = readable(name);
          const head = document.createElement("th");
          head.scope = "row";
          head.append(key);
          row.append(head);
          row.insertCell().textContent = label;
        }
      }
      list.replaceChildren(table);
      box.showModal();
    };
    opener.addEventListener("click", open);
    closer.addEventListener("click", () => box.close());
    add("?", "This list", open);
  }

  return { add, setUpDialog };
}
