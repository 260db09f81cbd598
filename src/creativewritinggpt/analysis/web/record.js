// The record that the page was made from, and small things that everything else needs.
// Numbers travel as base64: scores as float32 (or 16 bits and a scale for each row), attention
// weights as bytes of their square roots.

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element && name !== "style") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const record = JSON.parse(byId("record").textContent);
const { words, targets, methods } = record;
const tokenCount = record.tokens.length;

function bytesOf(packed) {
  const text = atob(packed);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
const floatsOf = (packed) => new Float32Array(bytesOf(packed).buffer);

// A target owes something to what stands before it only: its row has `position` numbers.
const rowStart = new Uint32Array(targets.length + 1);
targets.forEach((target, i) => { rowStart[i + 1] = rowStart[i] + target.position; });
const rowTotal = rowStart[targets.length];

function unpacked(packed) {
  if (packed.f32 !== undefined) return floatsOf(packed.f32);
  const whole = new Int16Array(bytesOf(packed.i16).buffer);
  const scale = floatsOf(packed.scale);
  const result = new Float32Array(whole.length);
  targets.forEach((_, t) => {
    for (let i = rowStart[t]; i < rowStart[t + 1]; i++) result[i] = whole[i] * scale[t];
  });
  return result;
}
for (const models of Object.values(methods)) {
  for (const found of Object.values(models)) {
    found.scores = unpacked(found.scores);
    if (found.error) found.error = unpacked(found.error);
  }
}
const attention = record.attention || null;
if (attention) {
  for (const name of ["rows", "base_rows"]) {
    if (attention[name]) attention[name] = bytesOf(attention[name]);
  }
}
const weightOfByte = Float32Array.from({ length: 256 }, (_, i) => (i / 255) ** 2);

const hasBase = targets.some((target) => target.base);

// How a token or a word is written where it stands alone.
function pretty(text, glued) {
  if (text === "") return "start";
  if (!text.trim()) return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣");
  const shown = text.trim().replace(/\s*\n\s*/g, "⏎");
  return glued && /^[\p{L}\p{N}]/u.test(text) ? "…" + shown : shown;
}

const MINUS = "\u2212";
function signed(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? MINUS : value > 0 ? "+" : "") + text;
}
function plain(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("-", MINUS);
  return value.toFixed(digits).replace("-", MINUS);
}
function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0 %";
  const share = 100 * value;
  if (share < 0.01) return "<0.01 %";
  return share.toFixed(share < 1 ? 2 : 1) + " %";
}
const cap = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const spaced = (name) => String(name).replace(/_/g, " ");
