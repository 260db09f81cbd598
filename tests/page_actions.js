// Put into a copy of the page by its test: the first part watches, the second one acts.
window.problems = [];
window.addEventListener("error", (event) => problems.push(String(event.message)));
window.addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
console.error = console.warn = (...all) => problems.push(all.join(" "));
// ---
const result = { moves: [], views: [] };
const now = () => document.querySelector(".now");
const heading = () => document.getElementById("chosen").textContent;
const press = (key) => {
  (document.activeElement === document.body ? now() : document.activeElement)
    .dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const count = document.querySelectorAll(".now").length;
  result.moves.push([key, heading(), document.activeElement === now(), count]);
};
const set = (name, value) => {
  const control = document.getElementById(name);
  control.value = value;
  control.dispatchEvent(new Event("change"));
};
const options = (name) => [...document.getElementById(name).options].map((option) => option.value);
result.first = document.getElementById("text").textContent;
const keys = ["Home", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "End", "ArrowRight", "Enter"];
keys.forEach(press);
result.held = document.getElementById("hint").textContent;
press("Escape");
press("Home");
press("End");
result.why = [...document.querySelectorAll("#why tr:not([hidden])")]
  .map((row) => [row.cells[0].textContent, row.cells[2].textContent]);
for (const unit of options("unit")) {
  set("unit", unit);
  for (const method of options("method")) {
    set("method", method);
    for (const model of options("model")) {
      set("model", model);
      const legend = document.getElementById("legend").textContent;
      const coloured = document.querySelectorAll("#text [style*=rgba]").length;
      result.views.push([unit, method, model, legend, coloured]);
    }
  }
}
if (document.getElementById("layer").options.length) {
  set("method", "attention");
  for (const layer of options("layer")) {
    set("layer", layer);
    set("head", options("head").at(-1));
  }
}
document.getElementById("theme").click();
document.getElementById("theme").click();
for (const section of document.querySelectorAll("section")) section.scrollIntoView();
setTimeout(() => {
  result.sections = [...document.querySelectorAll("section:not([hidden])")].map((one) => one.id);
  result.drawn = document.getElementById("settings").children.length;
  result.theme = document.documentElement.dataset.theme;
  result.problems = problems;
  result.judged = document.getElementById("faithfulness-section").textContent;
  result.scripts = document.querySelectorAll("script").length;
  document.body.dataset.result = JSON.stringify(result);
}, 1500);
