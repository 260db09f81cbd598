// How the model writes: presets with their reasons, every control, style dial, adapters, the model.
import { ask, element, later, slider } from "../ui.js";
import { html, live, nothing, render, repeat } from "/vendor/lit-html.js";
import { escaped, lines, sentence } from "./typed.js";

const GROUPS = { length: "Length", sampling: "Choice of words", repetition: "Repetition", words: "Words" };

/** @param {import("./room.js").Write} write */
export function addSettings(write) {
  const box = element("div");
  const panel = write.panel("settings", "Settings", box);
  const { app } = write;
  /** @type {any[] | null} */
  let models = null;
  let found = "";

  /** @param {string} path @param {Record<string, any>} body */
  async function patch(path, body) {
    try {
      const answer = await app.api("PATCH", path, { tab: app.tab, ...body });
      if (path === "/api/settings" && answer?.values) app.state.set({ settings: { ...app.state.get().settings, ...answer } });
    } catch (error) {
      write.failed(error);
      show();
    }
  }
  /** @param {string} name @param {any} value */
  const set = (name, value) => patch("/api/settings", { values: { [name]: value } });
  /** @param {string} name */
  const reset = (name) => patch("/api/settings", { reset: name });
  const value = (/** @type {Event} */ event) => /** @type {HTMLInputElement} */ (event.target).value;

  /** @param {any} declared */
  function control(declared) {
    const field = { ...declared, label: sentence(declared.label) };
    const { values, changed = [] } = app.state.get().settings;
    const now = values[field.name];
    const isChanged = changed.includes(field.name);
    const mark = isChanged ? html`<span class="state">changed from the preset
      <button type="button" class="plain" aria-label=${`Reset ${field.label}`} @click=${() => reset(field.name)}>reset</button></span>` : nothing;
    const ranged = (field.kind === "number" || field.kind === "int") && field.max !== null && field.max !== undefined && field.max <= 5000;
    if (ranged && !field.choices) {
      return slider(field, now, { changed: isChanged, note: field.effect ?? "", set: (number) => set(field.name, number), reset: () => reset(field.name) });
    }
    if (field.kind === "bool") {
      return html`<label class="check" title=${field.help ?? nothing}><input type="checkbox" .checked=${live(Boolean(now))}
        @change=${(/** @type {any} */ e) => set(field.name, e.target.checked)}> ${field.label}</label>${mark}`;
    }
    if (field.choices && field.kind !== "list") {
      return html`<label class="field" title=${field.help ?? nothing}><span class="label">${field.label}</span>
        <select @change=${(/** @type {Event} */ e) => set(field.name, value(e))}>${field.choices.map((/** @type {string} */ one) =>
          html`<option .selected=${one === now} value=${one}>${one}</option>`)}</select>${mark}</label>`;
    }
    if (field.kind === "number" || field.kind === "int") {
      const take = (/** @type {any} */ e) => (e.target.value === "" ? reset(field.name) : e.target.checkValidity() ? set(field.name, Number(e.target.value)) : e.target.reportValidity());
      return html`<label class="field" title=${field.help ?? nothing}><span class="label">${field.label}${field.unit ? ` (${field.unit})` : ""}${field.off !== null && field.off !== undefined && now === field.off ? ", off" : ""}</span>
        <input type="number" .value=${now === null ? "" : String(now)} min=${field.min ?? nothing} max=${field.max ?? nothing} step="any"
          placeholder=${field.name === "seed" ? "a new one each time" : ""} @change=${take}>${mark}</label>`;
    }
    const shown = Array.isArray(now) ? now.map(escaped).join("\n") : now && typeof now === "object"
      ? Object.entries(now).map(([word, weight]) => `${word}=${weight}`).join("\n") : now ?? "";
    return html`<label class="field" title=${field.help ?? nothing}><span class="label">${field.label}, one a line</span>
      <textarea rows="2" .value=${shown} spellcheck="false" @change=${(/** @type {Event} */ e) => set(field.name, lines(value(e), now, field))}></textarea>${mark}</label>`;
  }

  function modelPart() {
    const { model } = app.state.get();
    const adapters = Object.entries(model.adapters ?? {});
    const style = model.style ?? (adapters.length === 1 ? adapters[0][1] : undefined);
    const facts = [model.base && model.base !== model.name ? `on ${model.base}` : "", model.weights,
      model.tokens_per_second ? `${Number(model.tokens_per_second).toFixed(0)} tokens/s` : ""].filter(Boolean).join(" · ");
    return html`<section><h3>Model</h3>
      <div class="row"><span class="model-name">${model.name || "none"}</span>
        <button type="button" class="plain push" @click=${chooseModel}>Choose …</button></div>
      <p class="small quiet figures">${model.state === "ready" ? facts : model.message || { loading: "Loading …", none: "No model", failed: "Could not be loaded" }[/** @type {"loading"} */ (model.state)] || ""}</p>
      ${adapters.length ? slider({ name: "style", label: "Style", kind: "number", min: 0, max: 1.5, step: 0.05, off: 0, unit: "×", help: "Strength of the fine-tuning: 0 is the base model, 1 as trained." },
        style ?? 1, { changed: style !== undefined && style !== 1, set: (number) => patch("/api/model", { style: number }), reset: () => patch("/api/model", { style: 1 }) }) : nothing}
      ${adapters.length > 1 ? adapters.map(([id, weight]) => slider({ name: id, label: `Blend: ${id}`, kind: "number", min: 0, max: 1.5, step: 0.05, off: 0, unit: "×" },
        Number(weight), { set: (number) => patch("/api/model", { adapters: { ...model.adapters, [id]: number } }), reset: () => patch("/api/model", { adapters: { ...model.adapters, [id]: 1 } }) })) : nothing}
    </section>`;
  }

  async function chooseModel() {
    try {
      const answer = await app.api("GET", "/api/models");
      models = Array.isArray(answer) ? answer : answer.models;
    } catch (error) {
      write.failed(error);
      return;
    }
    const select = element("select", { "aria-label": "Model", size: String(Math.min(10, Math.max(3, models?.length ?? 3))) });
    for (const one of models ?? []) {
      select.append(element("option", { value: one.id ?? one.name, selected: one.name === app.state.get().model.name }, [one.name, one.adapter ? "adapter" : one.kind ?? one.note].filter(Boolean).join(" – ")));
    }
    const { adapters = {} } = app.state.get().model;
    const blends = Object.keys(adapters).length > 0;
    const choice = await ask("Choose a model", html`<p>The starter, and the models under outputs.${
      blends ? " An adapter of the same base can be blended with the one that writes." : ""}</p>${select}`,
      [{ label: "Load it", value: "load", primary: true }, ...(blends ? [{ label: "Blend it in", value: "blend" }] : [])]);
    if (!select.value) return;
    if (choice === "load") await patch("/api/model", { id: select.value });
    else if (choice === "blend") await patch("/api/model", { adapters: { ...adapters, [select.value]: 1 } });
  }

  function show() {
    if (!panel.isOpen()) return;
    const { settings } = app.state.get();
    if (!settings) return;
    const { preset, presets = [], fields = [] } = settings;
    const chosen = presets.find((/** @type {any} */ one) => one.name === preset);
    const wanted = found.toLowerCase();
    const fitting = fields.filter((/** @type {any} */ field) => !wanted || `${field.label} ${field.name} ${field.help ?? ""}`.toLowerCase().includes(wanted));
    const groups = [...new Set(fitting.map((/** @type {any} */ field) => field.group ?? ""))];
    render(html`
      ${modelPart()}
      <section><h3>Preset</h3>
        <select aria-label="Preset" @change=${(/** @type {Event} */ e) => patch("/api/settings", { preset: value(e) || null })}>
          <option value="" .selected=${!preset}>None</option>
          ${presets.map((/** @type {any} */ one) => html`<option value=${one.name} .selected=${one.name === preset}>${one.name}</option>`)}</select>
        ${chosen?.why ? html`<p class="small quiet reason">${chosen.why}</p>` : nothing}</section>
      <input type="search" aria-label="Find a setting" placeholder="Find a setting" .value=${found} @input=${(/** @type {Event} */ e) => { found = value(e); show(); }}>
      ${repeat(groups, (name) => name, (name) => html`<section class="settings-group"><h3>${GROUPS[/** @type {"length"} */ (name)] ?? (name || "Other")}</h3>
        ${repeat(fitting.filter((/** @type {any} */ field) => (field.group ?? "") === name), (/** @type {any} */ field) => field.name, control)}</section>`)}
      <section><h3>This page</h3>
        <label class="check"><input type="checkbox" .checked=${live(localStorage.getItem("write.spoken") === "sentences")}
          @change=${(/** @type {any} */ e) => localStorage.setItem("write.spoken", e.target.checked ? "sentences" : "done")}> Read finished sentences to a screen reader</label>
        <label class="check"><input type="checkbox" .checked=${live(localStorage.getItem("write.ink") !== "off")}
          @change=${(/** @type {any} */ e) => { localStorage.setItem("write.ink", e.target.checked ? "on" : "off"); ink(); }}> Show the model's words in their own ink</label>
      </section>`, box);
  }

  const ink = () => write.view.dom.classList.toggle("one-ink", localStorage.getItem("write.ink") === "off");
  ink();
  const soon = later(show, 30);
  panel.onToggle((open) => open && show());
  app.state.subscribe((/** @type {any} */ now, /** @type {any} */ before) => {
    if (now.settings !== before.settings || now.model !== before.model) soon();
    if (now.model?.state !== before.model?.state || now.model?.message !== before.model?.message) sayModel(now.model);
  });

  /** @param {any} model */
  function sayModel(model) {
    if (model.state === "loading") write.status(model.message || `Loading ${model.name} …`);
    else if (model.state === "failed") write.status(model.message || "The model could not be loaded.", "error", model.advice ?? null);
    else if (model.state === "ready" && document.getElementById("status")?.dataset.level !== "error") {
      write.status(`${model.name} is ready.`); // an error is left until it was seen
    }
  }
  sayModel(app.state.get().model ?? {});
}
