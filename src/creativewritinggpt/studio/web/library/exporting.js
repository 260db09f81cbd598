// Export of stories as manuscripts and of models for other programs.
import { html, nothing, render } from "/vendor/lit-html.js";
import { ApiError } from "../api.js";
import { ask, element } from "../ui.js";

/** @typedef {import("../app.js").App} App */

const FORMS = [
  ["docx", "Word", "a manuscript with headings"],
  ["epub", "EPUB", "a book for readers and e-readers"],
  ["md", "Markdown", "text with headings"],
  ["html", "Web page", "one page, to be printed or shown"],
  ["txt", "Text", "the words alone"],
  ["json", "Story file", "the whole story, its tree and history, for this program"],
];
const TARGETS = [
  ["gguf", "GGUF", "one file for llama.cpp, KoboldCpp, textgen"],
  ["ollama", "Ollama", "GGUF with a Modelfile"],
  ["lm-studio", "LM Studio", "GGUF in its folders"],
  ["merged", "safetensors", "the adapter merged: transformers, vLLM, MLX"],
  ["lora-gguf", "LoRA as GGUF", "the adapter alone, for llama-server --lora"],
  ["hub", "Hub folder", "with card, licence and checksums, ready to upload"],
];
const QUANTIZED = ["gguf", "ollama", "lm-studio"];
const FORMATS = [
  ["Q8_0", "8 bits: as good as exact"],
  ["Q6_K", "6 bits"],
  ["Q5_K_M", "5 bits"],
  ["Q4_K_M", "4 bits: small, loses a little"],
  ["F16", "16 bits"],
  ["F32", "exact, large"],
];

/**
 * @param {string} name
 * @param {string} legend
 * @param {string[][]} rows value, label, what it is
 * @param {(value: string) => void} chosen
 */
function choices(name, legend, rows, chosen) {
  return html`<fieldset class="choices"><legend class="small quiet">${legend}</legend>
    ${rows.map(([value, label, what], at) => html`<label class="choice"><input type="radio" name=${name} value=${value} ?checked=${at === 0}
      @change=${() => chosen(value)}> <span><b>${label}</b> <span class="quiet small">${what}</span></span></label>`)}</fieldset>`;
}

/**
 * Fetch a file and let the browser save it.
 * @param {string} path
 * @param {string} usual name, where the answer has none
 */
async function save(path, usual) {
  const answer = await fetch(path, { credentials: "same-origin" });
  if (!answer.ok) {
    const error = (await answer.json().catch(() => ({}))).error ?? {};
    throw new ApiError(error.message ?? `the studio answered ${answer.status}`, error.advice ?? null, error.kind ?? "", answer.status, null);
  }
  const header = answer.headers.get("content-disposition") ?? "";
  const long = /filename\*=utf-8''([^;]+)/i.exec(header);
  const short = /filename="([^"]+)"/.exec(header);
  const name = long ? decodeURIComponent(long[1]) : short ? short[1] : usual;
  const url = URL.createObjectURL(await answer.blob());
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  return name;
}

/** @param {App} app @param {{id: string, name: string}} story */
export async function exportStory(app, story) {
  let form = FORMS[0][0];
  const content = choices("form", "Form", FORMS, (value) => { form = value; });
  const where = await ask(`Export ${story.name}`, content, [
    { label: "Cancel", value: "" },
    { label: "Into the folder", value: "folder" },
    { label: "Download", value: "download", primary: true },
  ]);
  if (where === "download") {
    const name = await save(`/api/library/download/${encodeURIComponent(story.id)}.${form}`, `story.${form}`);
    app.status(`Downloaded: ${name}`);
  } else if (where === "folder") {
    const { file } = await app.api("POST", "/api/library/export", { id: story.id, form });
    app.status(`Written: ${file}`);
  }
}

/** @param {App} app @param {{id: string, name: string, base: string | null}} model */
export async function exportModel(app, model) {
  let to = TARGETS[0][0];
  let quantize = FORMATS[0][0];
  const rows = model.base === null ? TARGETS.filter(([value]) => value !== "lora-gguf") : TARGETS;
  const content = element("div");
  const draw = () => render(html`${choices("to", "For", rows, (value) => { to = value; draw(); })}
    ${QUANTIZED.includes(to) ? html`<label class="field"><span class="label">Number format</span>
      <select aria-label="Number format" @change=${(/** @type {Event} */ event) => { quantize = /** @type {HTMLSelectElement} */ (event.target).value; }}>
        ${FORMATS.map(([value, what]) => html`<option value=${value} ?selected=${value === quantize}>${value}: ${what}</option>`)}</select></label>` : nothing}
    <p class="small quiet">What is written is read back and compared with the model before it gets its name. It is made beside the writing, and its progress is shown here.</p>`, content);
  draw();
  const go = await ask(`Export ${model.name}`, content, [
    { label: "Cancel", value: "" }, { label: "Export", value: "yes", primary: true },
  ]);
  if (go !== "yes") return;
  const body = { id: model.id, to, ...(QUANTIZED.includes(to) ? { quantize: [quantize] } : {}) };
  await app.api("POST", "/api/library/models/export", body);
  app.status(`Exporting ${model.name}`);
}
