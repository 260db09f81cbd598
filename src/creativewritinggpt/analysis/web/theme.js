// Light and dark, and the colours that say what a number means.

const THEMES = ["system", "light", "dark"];
const colours = {};
const onTheme = [];

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["page", "ink", "quiet", "line", "accent", "s0"]) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
  for (const name of ["plus", "minus", "size", "mask"]) { // [red, green, blue]
    const hex = style.getPropertyValue("--" + name).trim().slice(1);
    colours[name] = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
  }
  colours.most = Number(style.getPropertyValue("--most"));
}

const system = matchMedia("(prefers-color-scheme: dark)");
function setTheme(choice) {
  const dark = choice === "dark" || (choice === "system" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const button = byId("theme");
  button.dataset.choice = choice;
  button.textContent = { system: "◐ as the system", light: "☀ light", dark: "☾ dark" }[choice];
  button.setAttribute("aria-label", "Colours: " + (choice === "system" ? "as the system" : choice));
  try { localStorage.setItem("cwgpt-theme", choice); } catch { /* a page from disk may not store */ }
  readColours();
  for (const redraw of onTheme) redraw();
}
function startTheme() {
  let stored = null;
  try { stored = localStorage.getItem("cwgpt-theme"); } catch { /* as above */ }
  setTheme(THEMES.includes(stored) ? stored : "system");
  byId("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(byId("theme").dataset.choice) + 1) % THEMES.length]);
  });
  system.addEventListener("change", () => setTheme(byId("theme").dataset.choice));
}

// How strong a colour is for a score of this size; a little steeper than linear near zero,
// so that small scores can be seen.
const strength = (value, scale) =>
  scale > 0 ? Math.min(1, Math.abs(value) / scale) ** 0.8 * colours.most : 0;

function tint(value, scale, isSigned) {
  const alpha = strength(value, scale);
  if (alpha < 0.004) return "";
  const [r, g, b] = !isSigned ? colours.size : value > 0 ? colours.plus : colours.minus;
  return `rgba(${r},${g},${b},${alpha.toFixed(3)})`;
}
function solid(value, isSigned) {
  const [r, g, b] = !isSigned ? colours.size : value > 0 ? colours.plus : colours.minus;
  return `rgb(${r},${g},${b})`;
}
