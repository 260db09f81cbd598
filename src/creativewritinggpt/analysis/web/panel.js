// What stands beside the text: the chosen word, what counted most, what else it could have been.

const WHY_ROWS = 10;
const pool = (table, count, two) => {
  const body = table.tBodies[0];
  return Array.from({ length: count }, () => {
    const bars = [make("i")];
    if (two) bars.push(make("i"));
    const row = {
      line: make("tr", { hidden: true }), name: make("td"), bars,
      number: make("td", { className: "two-numbers" }),
    };
    row.box = make("div", { className: two ? "bar two" : "bar" }, ...bars);
    row.line.append(row.name, make("td", {}, row.box), row.number);
    body.append(row.line);
    return row;
  });
};
const whyRows = pool(byId("why"), WHY_ROWS, false);
const longest = Math.max(...targets.map((t) => t.alternatives.length + (t.base ? t.base.alternatives.length : 0)), 0) + 2;
const otherRows = pool(byId("alternatives"), Math.min(longest, 16), hasBase);

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function place(bar, left, width, colour) {
  bar.style.left = left + "%";
  bar.style.width = Math.max(width, width > 0 ? 0.8 : 0) + "%";
  if (colour) bar.style.background = colour;
}

function paintWhy() {
  const stop = currentStop();
  const withSign = isSigned();
  const ranked = items[state.unit]
    .filter((item) => item !== stop.item && item.tokens[0] < stop.position && item.value !== 0)
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, WHY_ROWS);
  const most = ranked.length ? Math.abs(ranked[0].value) : 0;
  whyRows.forEach((row, i) => {
    const item = ranked[i];
    row.line.hidden = !item;
    if (!item) return;
    row.line.dataset.w = items[state.unit].indexOf(item);
    setText(row.name, item.label);
    row.name.title = item.label;
    const share = most ? Math.abs(item.value) / most : 0;
    row.box.classList.toggle("mid", withSign);
    const colour = solid(item.value, withSign);
    if (withSign) place(row.bars[0], item.value < 0 ? 50 - 50 * share : 50, 50 * share, colour);
    else place(row.bars[0], 0, 100 * share, colour);
    const error = errorOf(stop.targets, item.tokens);
    setText(row.number, withSign ? signed(item.value) : plain(item.value));
    if (error !== null) row.number.append(make("small", {}, "± " + plain(error)));
  });
  setText(byId("why-title"), ranked.length ? "What counted most" : "Nothing counted");
  return ranked;
}

// The target's own alternatives, then those of the base model, and the chosen one in any case.
function alternativesOf(target) {
  const rows = new Map();
  const add = (entry, name) => {
    const row = rows.get(entry.id) || { id: entry.id, text: entry.text };
    row[name] = entry.probability;
    rows.set(entry.id, row);
  };
  for (const entry of target.alternatives) add(entry, "tuned");
  for (const entry of target.base ? target.base.alternatives : []) add(entry, "base");
  add({ id: target.id, text: target.text, probability: target.probability }, "tuned");
  if (target.base) add({ id: target.id, text: target.text, probability: target.base.probability }, "base");
  if (target.foil) {
    add({ ...target.foil, probability: Math.exp(target.foil.log_probability) }, "tuned");
  }
  return [...rows.values()].sort((a, b) => (b.tuned ?? -1) - (a.tuned ?? -1) || (b.base ?? 0) - (a.base ?? 0));
}
function paintAlternatives(target) {
  let rows = alternativesOf(target);
  if (rows.length > otherRows.length) { // the chosen one and its foil are never cut off
    const kept = new Set(rows.slice(0, otherRows.length - 2).map((row) => row.id));
    kept.add(target.id);
    if (target.foil) kept.add(target.foil.id);
    rows = rows.filter((row) => kept.has(row.id));
  }
  const most = Math.max(...rows.flatMap((row) => [row.tuned || 0, row.base || 0]), 1e-9);
  otherRows.forEach((row, i) => {
    const entry = rows[i];
    row.line.hidden = !entry;
    if (!entry) return;
    const label = pretty(entry.text, target.glued);
    row.line.className = entry.id === target.id ? "this" : "";
    setText(row.name, label + (entry.id === target.id ? " ✓" : target.foil && entry.id === target.foil.id ? " (instead)" : ""));
    row.name.title = label;
    place(row.bars[0], 0, (100 * (entry.tuned || 0)) / most, colours.accent);
    setText(row.number, entry.tuned === undefined ? "–" : percent(entry.tuned));
    if (hasBase) {
      place(row.bars[1], 0, (100 * (entry.base || 0)) / most, colours.s0);
      row.number.append(make("small", {}, entry.base === undefined ? "–" : percent(entry.base)));
    }
  });
}

const factRows = ["probability", "rank", "log-probability, nats", "entropy before it"].map((name) => {
  const value = make("dd");
  byId("facts").append(make("dt", {}, name), value);
  return value;
});
function paintFacts(stop, target) {
  const whole = stop.targets.reduce((sum, t) => sum + targets[t].log_probability, 0);
  const several = stop.targets.length > 1;
  const before = target.base && stop.targets.every((t) => targets[t].base)
    ? stop.targets.reduce((sum, t) => sum + targets[t].base.log_probability, 0) : null;
  const beside = (text) => (before === null ? "" : ` (base: ${text})`);
  setText(factRows[0], percent(Math.exp(whole)) + beside(percent(Math.exp(before))));
  setText(factRows[1], `${target.rank}` + (target.base ? ` (base: ${target.base.rank})` : "") + (several ? " for this token" : ""));
  setText(factRows[2], plain(whole, 2) + beside(plain(before, 2)));
  setText(factRows[3], `${plain(target.entropy, 2)} nats` + (several ? " for this token" : ""));
}

const partsBox = byId("parts");
let partsOf = null;
function paintParts(stop) {
  if (partsOf !== stop) {
    partsOf = stop;
    partsBox.hidden = stop.targets.length < 2;
    partsBox.replaceChildren(...(partsBox.hidden ? [] : stop.targets.map((t, i) => make(
      "button", { type: "button", className: "chip", "data-part": i }, pretty(targets[t].text, i > 0 || targets[t].glued),
    ))));
  }
  [...partsBox.children].forEach((chip, i) => chip.setAttribute("aria-pressed", String(i === state.part)));
}

const chosenLabel = (stop) => `“${stop.label === "⏎" ? "⏎ (a line break)" : stop.label}”`;
let announcement = 0;
function paintPanel() {
  const stop = currentStop();
  const target = targets[stop.targets[state.part]];
  setText(byId("chosen"), chosenLabel(stop));
  paintParts(stop);
  paintFacts(stop, target);
  byId("contrast").hidden = !target.foil;
  if (target.foil) setText(byId("contrast"), `why this, and not “${pretty(target.foil.text, target.glued)}” (log-probability ${plain(target.foil.log_probability)})`);
  const ranked = paintWhy();
  paintAlternatives(target);
  for (const name of document.querySelectorAll(".chosen-word")) {
    setText(name, stop.targets.length > 1 ? `“${pretty(target.text, target.glued || state.part > 0)}”, a token of ${chosenLabel(stop)}` : chosenLabel(stop));
  }
  clearTimeout(announcement); // for screen readers, once the person has stopped moving
  announcement = setTimeout(() => {
    const most = ranked.slice(0, 3).map((item) => `${item.label} ${isSigned() ? signed(item.value, 2) : plain(item.value, 2)}`);
    setText(byId("live"), `${stop.label}, probability ${percent(target.probability)}, rank ${target.rank}. Most: ${most.join(", ") || "nothing"}`);
  }, 350);
}

// What the method means, and what is known about how far it can be trusted.
function badge(text, kind) {
  return make("li", { className: kind || "" }, text);
}
function convergenceBadge(stop) {
  const found = source(model() === "base" ? "base" : "tuned");
  const own = found && found.per_target.length ? stop.targets.map((t) => found.per_target[t]).filter(Boolean) : [];
  if (!own.length || own[0].converged === undefined) return null;
  const delta = own.reduce((sum, one) => sum + Math.abs(one.convergence_delta || 0), 0);
  const steps = [...new Set(own.map((one) => one.steps))].join(", ");
  return own.every((one) => one.converged)
    ? badge(`✓ converged: parts and whole differ by ${plain(delta)} nats, ${steps} steps`, "good")
    : badge(`✗ not converged: parts and whole differ by ${plain(delta)} nats after ${steps} steps`, "bad");
}
const SHOWN_SETTINGS = ["baseline", "law", "samples", "replacement", "unit", "seed"];
function paintAbout() {
  const stop = currentStop();
  setText(byId("about"), cap(methodAbout(state.method)));
  const list = [];
  const judged = record.faithfulness && record.faithfulness[shownName()];
  if (judged) {
    list.push(badge(...verdictOf(judged)));
    list[0].title = judged.sentence || "";
  }
  const converged = convergenceBadge(stop);
  if (converged) list.push(converged);
  const found = source("tuned");
  for (const key of found ? SHOWN_SETTINGS : []) {
    const value = found.settings[key];
    if (value !== undefined && value !== null) list.push(badge(`${key}: ${spaced(value)}`));
  }
  if (state.method === "attention") list.unshift(badge("attention is not attribution", "bad"));
  if (usesRows() && attention.reduced) list.push(badge("a long text: mean and largest of each layer's heads are kept, not every head"));
  if (hasBase && !baseKnown()) list.push(badge("known for the fine-tuned model only"));
  byId("badges").replaceChildren(...list);
}

function paintLegend() {
  const withSign = isSigned();
  const bar = byId("legend-bar");
  const context = bar.getContext("2d");
  context.fillStyle = colours.page;
  context.fillRect(0, 0, bar.width, bar.height);
  for (let x = 0; x < bar.width; x++) {
    const value = withSign ? (2 * x) / (bar.width - 1) - 1 : x / (bar.width - 1);
    context.fillStyle = tint(value, 1, withSign) || colours.page;
    context.fillRect(x, 0, 1, bar.height);
  }
  const [low, high] = model() === "difference" ? ["less since fine-tuning", "more"]
    : withSign ? ["opposes", "supports"] : isShare() ? ["", "looked at"] : ["", "counts"];
  setText(byId("legend-low"), withSign ? `${low} ${signed(-scale, 2)}` : "0");
  setText(byId("legend-high"), withSign ? `${signed(scale, 2)} ${high}` : `${plain(scale, 2)} ${high}`);
  setText(byId("legend-unit"), unitName() === "share" ? "share of attention" : unitName());
}
