// Light, dark, or as the system says; kept in this browser.
const NAMES = { system: "as the system", light: "light", dark: "dark" };
const SIGNS = { system: "◐", light: "○", dark: "●" };

/** @typedef {keyof typeof NAMES} Theme */

/** @returns {Theme} */
function kept() {
  const name = localStorage.getItem("theme");
  return name === "light" || name === "dark" ? name : "system";
}

/** @param {HTMLElement} button */
export function setUpTheme(button) {
  /** @param {Theme} name */
  function apply(name) {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = SIGNS[name];
    button.setAttribute("aria-label", `Theme: ${NAMES[name]}`);
  }
  button.addEventListener("click", () => {
    /** @type {Theme[]} */
    const order = ["system", "light", "dark"];
    const next = order[(order.indexOf(kept()) + 1) % order.length];
    localStorage.setItem("theme", next);
    apply(next);
  });
  apply(kept());
}
