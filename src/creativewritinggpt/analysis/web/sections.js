// What stands under the text: layers, what fine-tuning changed, the story, faithfulness, settings.

// Headings of columns of numbers begin with ">" and stand on the right, as their numbers do.
function table(headings, rows, className = "grid") {
  const head = make("tr", {}, ...headings.map((text) => make("th", { scope: "col", className: text[0] === ">" ? "n" : "" }, text.replace(/^>/, ""))));
  return make("table", { className }, make("thead", {}, head), make("tbody", {}, ...rows));
}
const cell = (text, className) => make("td", { className: className || "" }, text);
function heading(text) { return make("h3", {}, text); }
function shaded(value, most, withSign, text) {
  const found = cell(text === undefined ? (withSign ? signed(value) : plain(value)) : text, "n");
  found.style.backgroundColor = value === null ? "" : tint(value, most, withSign);
  return found;
}

// --- layer by layer ----------------------------------------------------------------------------
function drawLens() {
  const t = currentStop().targets[state.part];
  const target = targets[t];
  const models = ["tuned", "base"].filter((name) => record.lens[name]);
  const first = record.lens[models[0]];
  const headings = ["layer"];
  for (const name of models) {
    const who = models.length > 1 ? ` (${name === "tuned" ? "fine-tuned" : "base"})` : "";
    headings.push(">probability" + who, ">rank", "most likely" + who);
  }
  const rows = first.layers.map((label, layer) => {
    const line = make("tr", {}, make("th", { scope: "row" }, String(label)));
    for (const name of models) {
      const lens = record.lens[name];
      const probability = Math.exp(lens.log_probability[layer][t]);
      line.append(shaded(probability, 1, false, percent(probability)), cell(String(lens.rank[layer][t]), "n"));
      const top = make("td");
      lens.top[layer][t].slice(0, models.length > 1 ? 3 : 5).forEach((entry, i) => {
        const hit = entry.id === target.id;
        top.append(i ? "  " : "", make(hit ? "b" : "span", { title: percent(entry.probability) }, pretty(entry.text ?? "#" + entry.id, target.glued)),
          make("small", {}, " " + percent(entry.probability)));
      });
      line.append(top);
    }
    return line;
  });
  byId("lens").replaceChildren(...table(headings, rows).children);
}

// --- what fine-tuning changed ------------------------------------------------------------------
// Every word of the text, coloured by how much likelier the fine-tuned model found it.
function changeStrip(delta) {
  const values = words.map((word) => sumOver(delta, word.tokens));
  const most = Math.max(...values.map(Math.abs), 1e-9);
  const strip = make("div", { className: "strip", dir: "auto" });
  words.forEach((word, i) => {
    if (i === 0) return;
    const shown = word.text.trim() ? word.text : "⏎";
    const one = make("span", { title: `${shown}: ${signed(values[i])} nats` }, shown);
    one.style.backgroundColor = tint(values[i], most, true);
    strip.append(one, word.text.trim() ? " " : "\n");
  });
  return [strip, make("p", { className: "quiet" }, `Orange: likelier since the fine-tuning, blue: less likely; the strongest colour is ${plain(most, 2)} nats. Point at a word to read its number.`)];
}
function changedList(title, entries) {
  const rows = entries.map((entry) => make("tr", {}, cell(pretty(entry.text ?? "#" + entry.id)),
    cell(percent(entry.base), "n"), cell(percent(entry.tuned), "n")));
  return make("div", {}, heading(title), table(["token", ">base", ">fine-tuned"], rows));
}
function heatTable(title, about, layers, columns, values) {
  const most = Math.max(...values.flat().filter((v) => v !== null).map(Math.abs), 1e-12);
  const rows = layers.map((layer, i) => make("tr", {}, make("th", { scope: "row" }, String(layer)),
    ...columns.map((_, j) => (values[i][j] === null ? cell("") : shaded(values[i][j], most, false)))));
  return make("div", {}, heading(title), make("p", { className: "quiet" }, about),
    make("div", { className: "scroll" }, table(["layer", ...columns.map((name) => ">" + name)], rows)));
}
// The adapter's updates as layers by projections; what stands outside the layers comes last.
function updateTable(updates) {
  const unique = (values) => [...new Set(values)];
  const layers = unique(updates.map((one) => one.layer ?? "outside"));
  const projections = unique(updates.map((one) => one.projection));
  const values = layers.map((layer) => projections.map((projection) => {
    const found = updates.find((one) => (one.layer ?? "outside") === layer && one.projection === projection);
    return found ? found.relative : null;
  }));
  return heatTable("How far the adapter moves the weights", "Size of each update against the size of the weight that it is added to (Frobenius norms).", layers, projections, values);
}
let movedBox = null;
function drawDifference() {
  const found = record.difference;
  if (!movedBox) {
    movedBox = make("div", { className: "side-by-side" });
    const tables = make("div", { className: "side-by-side" });
    if (found.updates && found.updates.length) tables.append(updateTable(found.updates));
    if (found.attention) {
      tables.append(heatTable("How far each head's attention moved", "From 0, not at all, to 1: total variation distance, mean over the text.",
        found.attention.map((_, i) => i), found.attention[0].map((_, i) => "head " + i), found.attention));
    }
    byId("difference").replaceChildren(heading("Word by word"), ...changeStrip(found.change), movedBox, tables);
  }
  const t = currentStop().targets[state.part];
  const lists = [];
  const here = `before ${chosenLabel(currentStop())}`;
  if (found.gained && found.gained[t]) lists.push(changedList("Gained most " + here, found.gained[t]));
  if (found.lost && found.lost[t]) lists.push(changedList("Lost most " + here, found.lost[t]));
  if (found.gained_overall) lists.push(changedList("Gained most in the whole text", found.gained_overall));
  if (found.lost_overall) lists.push(changedList("Lost most in the whole text", found.lost_overall));
  movedBox.replaceChildren(...lists);
}

// --- the story ---------------------------------------------------------------------------------
const KINDS = ["name", "place", "dialogue", "action", "prompt"];
const KIND_LABELS = { name: "names", place: "places", dialogue: "dialogue", action: "action", prompt: "the prompt's words" };
const kindShown = new Set();
function paintKinds() {
  for (const item of items.words) {
    if (!item.element) continue;
    for (const kind of KINDS) item.element.classList.toggle("k-" + kind, kindShown.has(kind) && item.kinds.includes(kind));
  }
}
// How much of the sizes of all scores is on words of each kind, and of how many tokens.
function kindShares(group) {
  const found = new Float64Array(tokenCount);
  fillScores(found, group);
  const position = targets[group[0]].position;
  const sums = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
  const even = { ...sums };
  let total = 0;
  for (let token = 1; token < position; token++) total += Math.abs(found[token]);
  for (const item of items.words) {
    for (const token of item.start ? [] : item.tokens) {
      if (token >= position) continue;
      for (const kind of item.kinds) {
        if (!(kind in sums)) continue;
        sums[kind] += total ? Math.abs(found[token]) / total : 0;
        even[kind] += 1 / (position - 1);
      }
    }
  }
  return { sums, even };
}
let averageFor = "";
let average = null;
function averageShares() {
  const key = [state.method, state.layer, state.head, state.model, state.sink].join();
  if (key === averageFor) return average;
  averageFor = key;
  const all = stops.words.map((stop) => kindShares(stop.targets));
  average = Object.fromEntries(KINDS.map((kind) => [kind, all.reduce((sum, one) => sum + one.sums[kind], 0) / all.length]));
  return average;
}
function kindTable() {
  const here = kindShares(currentStop().targets);
  const overall = averageShares();
  const rows = KINDS.filter((kind) => words.some((word) => word.kinds.includes(kind))).map((kind) => make("tr", {},
    make("th", { scope: "row" }, KIND_LABELS[kind]),
    shaded(here.sums[kind], 1, false, percent(here.sums[kind])), cell(percent(here.even[kind]), "n"),
    ...(stops.words.length > 1 ? [shaded(overall[kind], 1, false, percent(overall[kind]))] : [])));
  return table(["kind", ">counts for this word", ">spread evenly", ...(stops.words.length > 1 ? [">counts on average"] : [])], rows);
}
function kindChips() {
  const box = make("div", { className: "kinds", role: "group", "aria-label": "Underline in the text" });
  for (const kind of KINDS) {
    const count = words.filter((word) => word.kinds.includes(kind)).length;
    if (!count) continue;
    const chip = make("button", { type: "button", className: "chip", "aria-pressed": String(kindShown.has(kind)) }, make("span", { className: "k-" + kind }, KIND_LABELS[kind]), ` ${count}`);
    chip.addEventListener("click", () => {
      if (kindShown.has(kind)) kindShown.delete(kind); else kindShown.add(kind);
      chip.setAttribute("aria-pressed", String(kindShown.has(kind)));
      paintKinds();
    });
    box.append(chip);
  }
  return box;
}
function returnsTable(what, returns) {
  const rows = returns.map((one) => {
    const word = words[one.word];
    const jump = make("button", { type: "button", className: "chip" }, word.text);
    jump.addEventListener("click", () => {
      const at = stops[state.unit].findIndex((stop) => stop.targets.includes(one.target));
      if (at >= 0) { choose(at, true); hold(true); }
    });
    return make("tr", {}, make("th", { scope: "row" }, jump), cell(String(one.earlier.length), "n"),
      shaded(one.share, 1, false, percent(one.share)), cell(percent(one.even), "n"),
      make("td", { className: "sentence" }, one.sentence_text || ""),
      shaded(one.sentence_share, 1, false, percent(one.sentence_share)));
  });
  return make("div", {}, heading(`When a name comes back: ${what}`), make("div", { className: "scroll" },
    table(["name", ">said before", ">on those", ">spread evenly", "the sentence that has most", ">on it"], rows)));
}
function returnsParts() {
  const found = record.story.returns || {};
  const groups = Object.entries(Array.isArray(found) ? { attention: found } : found).filter(([, list]) => list.length);
  const told = typeof record.story.told === "string" ? [record.story.told] : Object.values(record.story.told || {});
  return [...told.filter(Boolean).map((text) => make("p", {}, text)), ...groups.map(([name, list]) => returnsTable(methodLabel(name), list))];
}
let kindBox = null;
function drawStory() {
  if (!kindBox) {
    kindBox = make("div", { className: "scroll" });
    const parts = [make("p", { className: "quiet" }, "Kinds are found by rules and can be wrong. Underline them in the text:"), kindChips(), kindBox];
    parts.push(...returnsParts());
    byId("story").replaceChildren(...parts);
  }
  kindBox.replaceChildren(make("p", { className: "quiet" }, `By ${methodLabel(state.method)}, sizes without their sign, for ${chosenLabel(currentStop())}:`), kindTable());
}

// --- faithfulness ------------------------------------------------------------------------------
const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
function curve(title, about, found) {
  const [width, height, left, bottom, top] = [400, 230, 48, 30, 10];
  const lines = [found.values, found.random_mean, found.random_low, found.random_high].filter(Boolean);
  const low = Math.min(...lines.flat());
  const high = Math.max(...lines.flat());
  const x = (fraction) => left + fraction * (width - left - 20);
  const y = (value) => top + (1 - (value - low) / (high - low || 1)) * (height - bottom - top);
  const path = (values) => values.map((value, i) => `${i ? "L" : "M"}${x(found.fractions[i]).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${about}` });
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(shape("line", { x1: left, x2: width - 20, y1: y(value), y2: y(value), stroke: colours.line }),
      shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, plain(value, 1)));
  }
  for (const value of [0, 0.5, 1]) svg.append(shape("text", { x: x(value), y: height - 10, "text-anchor": "middle" }, `${100 * value} %`));
  if (found.random_low && found.random_high) {
    const back = [...found.fractions.keys()].reverse().map((i) => `L${x(found.fractions[i]).toFixed(1)} ${y(found.random_low[i]).toFixed(1)}`).join("");
    svg.append(shape("path", { d: path(found.random_high) + back + "Z", fill: colours.quiet, opacity: 0.25 }));
  }
  if (found.random_mean) svg.append(shape("path", { d: path(found.random_mean), fill: "none", stroke: colours.quiet, "stroke-dasharray": "4 3", "stroke-width": 1.5 }));
  svg.append(shape("path", { d: path(found.values), fill: "none", stroke: solid(1, true), "stroke-width": 2.5 }));
  return make("figure", {}, svg, make("figcaption", {}, `${title}: ${about}`));
}
const LAWS = { end_of_text: "end-of-text tokens", unigram: "frequent tokens" };
function drawFaithfulness() {
  const names = Object.keys(record.faithfulness);
  const shown = names.includes(shownName()) ? shownName() : null;
  const parts = [];
  if (shown) {
    const found = record.faithfulness[shown];
    parts.push(heading(cap(methodLabel(shown))), make("p", {}, cap(found.sentence || "")));
    for (const [law, one] of Object.entries(found.laws || { "": found })) {
      const with_ = law ? `; in their place ${LAWS[law] || spaced(law)}` : "";
      parts.push(make("div", { className: "curves" },
        curve("deletion", `${scoreName} when the first x % of the tokens are taken away${with_} (lower is better)`, one.deletion),
        curve("insertion", `${scoreName} when only the first x % are there${with_} (higher is better)`, one.insertion)));
    }
  } else parts.push(make("p", { className: "quiet" }, `${cap(methodLabel(state.method))} was not judged.`));
  const rows = names.map((name) => {
    const found = record.faithfulness[name];
    return make("tr", {}, make("th", { scope: "row" }, methodLabel(name)),
      cell(plain(found.comprehensiveness), "n"), cell(plain(found.sufficiency), "n"),
      cell(plain(found.deletion.auc), "n"), cell(plain(found.insertion.auc), "n"), cell(plain(found.p_value, 2), "n"),
      cell((found.better_than_random ? "✓ " : "") + found.verdict, found.better_than_random ? "" : "hit"));
  });
  const judged = (record.faithfulness[names[0]] || {}).settings || {};
  if (judged.targets && judged.targets.length < judged.targets_in_all) {
    parts.push(make("p", { className: "quiet" }, `Judged on ${judged.targets.length} of the ${judged.targets_in_all} explained tokens, evenly spaced.`));
  }
  parts.push(heading("All methods"), make("div", { className: "scroll" },
    table(["method", ">comprehensiveness ↑", ">sufficiency ↓", ">deletion ↓", ">insertion ↑", ">p", ""], rows)));
  byId("faithfulness").replaceChildren(...parts);
}

// --- how this was made -------------------------------------------------------------------------
function told(value) {
  if (Array.isArray(value)) return value.map(told).join(", ");
  if (value && typeof value === "object") return Object.entries(value).filter(([, one]) => one !== null).map(([key, one]) => `${spaced(key)} ${told(one)}`).join(", ");
  return spaced(value);
}
function drawSettings() {
  const box = byId("settings");
  const add = (name, value) => {
    if (value === null || value === undefined || value === "") return;
    box.append(make("dt", {}, spaced(name)), make("dd", {}, typeof value === "object" ? told(value) : String(value)));
  };
  for (const [name, value] of Object.entries(record.about)) add(name, value);
  for (const [name, value] of Object.entries(record.settings)) add(name, value);
  for (const name of methodNames) {
    const found = methods[name] && methods[name].tuned;
    if (found && Object.keys(found.settings).length) {
      add(methodLabel(name), told(found.settings));
    }
  }
}
