// Panels at the side of the text: one is open at a time, each has a button in the row above the text.
import { element } from "../ui.js";

/**
 * @typedef {object} Panel
 * @property {string} name
 * @property {HTMLElement} element
 * @property {HTMLButtonElement} button
 * @property {() => boolean} isOpen
 * @property {() => void} open
 * @property {() => void} close
 * @property {() => void} toggle
 * @property {(listener: (open: boolean) => void) => void} onToggle
 */

/**
 * @param {HTMLElement} row where the buttons stand
 * @param {HTMLElement} side where the panels open
 * @param {() => void} leave gives the focus back to the text
 */
export function createPanels(row, side, leave) {
  /** @type {Map<string, Panel>} */
  const panels = new Map();
  let current = "";

  /** @param {string} name empty: none */
  function show(name) {
    const before = current;
    if (before === name) return;
    current = name;
    side.hidden = name === "";
    for (const panel of panels.values()) {
      const open = panel.name === name;
      panel.element.hidden = !open;
      panel.button.setAttribute("aria-expanded", String(open));
    }
    sessionStorage.setItem("write.panel", name);
    if (before) listeners.get(before)?.forEach((listener) => listener(false));
    if (name) listeners.get(name)?.forEach((listener) => listener(true));
  }

  /** @type {Map<string, ((open: boolean) => void)[]>} */
  const listeners = new Map();

  side.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    event.preventDefault();
    const { button } = panels.get(current) ?? {};
    show("");
    (button ?? document.body).focus();
  });

  /**
   * @param {string} name
   * @param {string} title
   * @param {HTMLElement} content
   * @param {{quiet?: boolean}} [options] quiet: no button of its own in the row
   * @returns {Panel}
   */
  function panel(name, title, content, { quiet = false } = {}) {
    const id = `panel-${name}`;
    const button = element("button", { type: "button", "aria-expanded": "false", "aria-controls": id }, title);
    const close = element("button", { type: "button", class: "close", "aria-label": `Close ${title}`, title: "Close (Esc)" }, "×");
    const box = element("section", { id, class: "panel", "aria-label": title, "data-pane": title },
      element("header", {}, element("h2", {}, title), close), content);
    box.hidden = true;
    side.append(box);
    if (!quiet) row.append(button);
    listeners.set(name, []);
    /** @type {Panel} */
    const made = {
      name,
      element: box,
      button,
      isOpen: () => current === name,
      open: () => show(name),
      close: () => current === name && show(""),
      toggle: () => show(current === name ? "" : name),
      onToggle: (listener) => void listeners.get(name)?.push(listener),
    };
    panels.set(name, made);
    button.addEventListener("click", made.toggle);
    close.addEventListener("click", () => {
      made.close();
      leave();
    });
    return made;
  }

  return {
    panel,
    /** Open what was open before a reload. */
    restore() {
      const name = sessionStorage.getItem("write.panel") ?? "";
      if (panels.has(name) && matchMedia("(min-width: 60rem)").matches) show(name);
    },
  };
}
