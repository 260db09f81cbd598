// What is asked of the record: for a choice of method, model, layer and head, the score of every
// token for a word (the sum over the word's tokens, or the mean where weights are shares).

// {title, about, family} of every kind of scores, from the registry of methods. Scores of the family
// "attention" are chosen by layer and head, not by name.
const titles = record.titles;
const FAMILY = Object.keys(titles).filter((name) => titles[name].family === "attention");

const state = {
  method: "", model: "tuned", layer: "rollout", head: "mean", unit: "words", sink: true,
  numbers: false, stop: 0, part: 0, held: false,
};

const methodNames = Object.keys(titles).filter((name) => !FAMILY.includes(name));
const hasRollout = Boolean(methods.rollout || methods.rollout_without_sink);
const hasMean = Boolean(methods.attention || methods.attention_without_sink);
const hasRows = Boolean(attention && attention.rows);
if (hasRows || hasRollout || hasMean) methodNames.push("attention");
const methodLabel = (name) => (titles[name] ? titles[name].title : spaced(name) || "nothing was computed");
// Against a foil every score is of the lead over it, and not of the log-probability.
const against = targets.find((target) => target.foil);
const scoreName = against ? `lead over “${pretty(against.foil.text, against.glued)}”` : "log-probability";
for (const name of document.querySelectorAll(".score-name")) name.textContent = scoreName;
const methodAbout = (name) => {
  const known = titles[name === "attention" ? FAMILY[0] : name];
  return known ? known.about.replaceAll("log-probability", () => scoreName) : "";
};
// What the faithfulness test says of scores, and how it looks.
function verdictOf(found) {
  if (found.better_than_random) return ["✓ " + found.verdict, "good"];
  if (found.verdict === "too short to tell") return ["? the text is too short to tell whether this is better than a random order of its words", ""];
  return [`✗ ${found.verdict}: read it with care`, "bad"];
}

// The attribution of the record that is meant: by its name, or attention over all layers and heads;
// nothing for single layers and heads, which are in the rows.
function shownName() {
  if (state.method !== "attention") return state.method;
  const kind = state.layer === "rollout" ? "rollout" : state.layer === "mean" && state.head === "mean" ? "attention" : null;
  if (!kind) return null;
  const masked = kind + "_without_sink";
  return state.sink && methods[masked] ? masked : methods[kind] ? kind : methods[masked] ? masked : null;
}
const usesRows = () => state.method === "attention" && shownName() === null;

function source(model) {
  const found = methods[shownName()];
  return (found && found[model]) || null;
}
function baseKnown() {
  if (!hasBase) return false;
  return usesRows() ? Boolean(attention.base_rows) : Boolean(source("base"));
}
const model = () => (baseKnown() ? state.model : "tuned");
const isShare = () => state.method === "attention";
function isSigned() {
  if (model() === "difference") return true;
  const found = source("tuned");
  return Boolean(found && found.signed);
}
function unitName() {
  if (isShare()) return "share";
  const found = source("tuned");
  return found ? found.unit : "";
}

function addRows(rows, out, t, factor) {
  const layers = state.layer === "mean" || state.layer === "rollout"
    ? [...Array(attention.layers).keys()] : [Number(state.layer)];
  const views = state.head === "mean" && !attention.reduced
    ? [...Array(attention.views.length).keys()]
    : [state.head === "mean" ? 0 : Number(state.head)];
  const part = factor / (layers.length * views.length);
  const count = rowStart[t + 1] - rowStart[t];
  for (const layer of layers) {
    for (const view of views) {
      const at = (layer * attention.views.length + view) * rowTotal + rowStart[t];
      let rest = 0; // each head is renormalised without the start token, as in the record
      for (let i = 1; i < count; i++) rest += weightOfByte[rows[at + i]];
      if (state.sink && rest < 1e-6) continue;
      const weight = state.sink ? part / rest : part;
      for (let i = state.sink ? 1 : 0; i < count; i++) out[i] += weight * weightOfByte[rows[at + i]];
    }
  }
}
function fillModel(out, group, name) {
  out.fill(0);
  const found = source(name);
  for (const t of group) {
    const factor = isShare() ? 1 / group.length : 1;
    if (found) {
      const start = rowStart[t];
      for (let i = 0; i < rowStart[t + 1] - start; i++) out[i] += factor * found.scores[start + i];
    } else if (usesRows()) {
      const rows = name === "base" ? attention.base_rows : attention.rows;
      if (rows) addRows(rows, out, t, factor);
    }
  }
}
const spare = new Float64Array(tokenCount);

// Scores of all tokens for the targets of a group, into `out`.
function fillScores(out, group) {
  fillModel(out, group, model() === "base" ? "base" : "tuned");
  if (model() !== "difference") return;
  fillModel(spare, group, "base");
  for (let i = 0; i < out.length; i++) out[i] -= spare[i];
}
function sumOver(scores, tokens) {
  let sum = 0;
  for (const token of tokens) sum += scores[token];
  return sum;
}
// Standard error of a sum of scores, as if the tokens' errors were independent.
function errorOf(group, tokens) {
  if (model() === "difference") return null;
  const found = source(model());
  if (!found || !found.error) return null;
  let square = 0;
  for (const t of group) {
    for (const token of tokens) {
      if (token < targets[t].position) square += found.error[rowStart[t] + token] ** 2;
    }
  }
  return Math.sqrt(square);
}
