// Ties it together: what a person does with mouse, keyboard and controls, and what is redrawn then.

const controls = ["method", "layer", "head", "model", "unit"];

// Sections far from view are redrawn when they come into it, so that a move stays quick.
const sections = new Map(); // element → {draw, stale, seen}
function addSection(id, draw) {
  const element = byId(id);
  element.hidden = false;
  sections.set(element, { draw, stale: true, seen: false });
}
function refresh(section) {
  if (!section.seen || !section.stale) return;
  section.stale = false;
  section.draw();
}
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const section = sections.get(entry.target);
    section.seen = entry.isIntersecting;
    refresh(section);
  }
}, { rootMargin: "200px" });

let frame = 0;
function redrawSections() {
  for (const section of sections.values()) section.stale = true;
  if (!frame) {
    frame = requestAnimationFrame(() => {
      frame = 0;
      for (const section of sections.values()) refresh(section);
    });
  }
}
function redraw() {
  markStop();
  paintText();
  paintPanel();
  paintAbout();
  paintLegend();
  redrawSections();
}
function changed() { // of the view, not of the place
  matrix.picture = null;
  arrangeControls();
  redraw();
}
function choose(index, focus) {
  const last = stops[state.unit].length - 1;
  state.stop = Math.max(0, Math.min(last, index));
  state.part = 0;
  redraw();
  if (focus) {
    currentStop().item.element.focus({ preventScroll: true });
    currentStop().item.element.scrollIntoView({ block: "nearest" });
  }
}
function hold(on) {
  state.held = on;
  textBox.classList.toggle("held", on);
  paintHint();
}
function paintHint() {
  setText(byId("hint"), stops[state.unit].length < 2
    ? "One word is explained. Point at any word to read its number."
    : state.held ? "Held: point at any word to read its number. Click the chosen word again, or press Esc, to let go."
      : "Point at an underlined word to see where it came from; click to hold it. Keys: arrows, Home, End, Enter to hold.");
}

// --- controls ----------------------------------------------------------------------------------
function fillSelect(select, pairs, value) {
  select.replaceChildren(...pairs.map(([key, label]) => make("option", { value: key }, label)));
  select.value = pairs.some(([key]) => String(key) === String(value)) ? value : pairs[0][0];
  return select.value;
}
function arrangeControls() {
  for (const label of document.querySelectorAll("[data-for=attention]")) label.hidden = state.method !== "attention";
  for (const label of document.querySelectorAll("[data-for=model]")) label.hidden = !hasBase;
  byId("head").closest("label").hidden = !(state.method === "attention" && hasRows && state.layer !== "rollout");
  byId("model").disabled = hasBase && !baseKnown();
}
function fillControls() {
  state.method = fillSelect(byId("method"), (methodNames.length ? methodNames : [""]).map((name) => [name, methodLabel(name)]), methodNames[0]);
  const layers = hasRollout ? [["rollout", "all (rollout)"]] : [];
  if (hasRows || hasMean) layers.push(["mean", "mean of all"]);
  if (hasRows) {
    for (let layer = 0; layer < attention.layers; layer++) layers.push([layer, String(layer)]);
    fillSelect(byId("head"), attention.reduced
      ? attention.views.map((name, i) => [i === 0 ? "mean" : i, name])
      : [["mean", "mean of all"], ...attention.views.map((name, i) => [i, name])], "mean");
  }
  if (layers.length) state.layer = fillSelect(byId("layer"), layers, "rollout");
  for (const name of controls) {
    byId(name).addEventListener("change", (event) => {
      if (name === "unit") setUnit(event.target.value); else state[name] = event.target.value;
      state.part = 0;
      changed();
    });
  }
  byId("sink").addEventListener("change", (event) => { state.sink = event.target.checked; changed(); });
  byId("numbers").addEventListener("change", (event) => {
    state.numbers = event.target.checked;
    textBox.classList.toggle("numbered", state.numbers);
    paintText();
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
}

// --- mouse -------------------------------------------------------------------------------------
const tooltip = byId("tooltip");
const stopName = () => "stop" + cap(state.unit);
const stopOf = (element) => {
  const found = element.closest && element.closest(`[data-stop-${state.unit}]`);
  return found ? Number(found.dataset[stopName()]) : -1;
};
const itemOf = (element) => {
  const key = state.unit === "words" ? "w" : "t";
  const found = element.closest && element.closest(`[data-${key}]`);
  return found && found.dataset[key] !== undefined ? items[state.unit][Number(found.dataset[key])] : null;
};
function describe(item) {
  const stop = currentStop();
  if (item === stop.item) return `${item.label}: the chosen one`;
  if (item.tokens[0] >= stop.position) return `${item.label}: comes after it, can't count`;
  const error = errorOf(stop.targets, item.tokens);
  const side = model() === "difference" ? "" : isSigned() ? (item.value < 0 ? ", opposes" : item.value > 0 ? ", supports" : "") : "";
  return `${item.label}: ${isSigned() ? signed(item.value) : plain(item.value)} ${unitName()}${error === null ? "" : " ± " + plain(error)}${side}`
    + (item.kinds.length ? ` · ${item.kinds.join(", ")}` : "");
}
function showTooltip(event, item) {
  setText(tooltip, describe(item));
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect();
  const above = event.clientY - box.height - 16;
  tooltip.style.left = Math.max(4, Math.min(window.innerWidth - box.width - 4, event.clientX + 10)) + "px";
  tooltip.style.top = (above > 4 ? above : event.clientY + 22) + "px";
}
function listenToMouse() {
  let over = null;
  textBox.addEventListener("pointermove", (event) => {
    const item = itemOf(event.target);
    if (event.target !== over && event.pointerType === "mouse" && !state.held) {
      over = event.target;
      const index = stopOf(event.target);
      if (index >= 0 && index !== state.stop) choose(index, false);
    }
    if (item && (state.held || stopOf(event.target) < 0)) showTooltip(event, item); else tooltip.hidden = true;
  });
  textBox.addEventListener("pointerleave", () => { tooltip.hidden = true; over = null; });
  textBox.addEventListener("click", (event) => {
    const index = stopOf(event.target);
    if (index < 0) return;
    const same = index === state.stop && state.held;
    choose(index, true);
    hold(!same);
  });
  byId("why").addEventListener("pointerover", (event) => point(event.target.closest("tr")));
  byId("why").addEventListener("pointerleave", () => point(null));
  partsBox.addEventListener("click", (event) => {
    const chip = event.target.closest("[data-part]");
    if (!chip) return;
    state.part = Number(chip.dataset.part);
    paintPanel();
    redrawSections();
  });
}
let pointed = null;
function point(row) {
  if (pointed) pointed.classList.remove("pointed");
  pointed = row && row.dataset.w !== undefined ? items[state.unit][Number(row.dataset.w)].element : null;
  if (pointed) pointed.classList.add("pointed");
}

// --- keyboard ----------------------------------------------------------------------------------
// The stop above or below: on the nearest line that has one, the one that stands closest.
function acrossLines(direction) {
  const boxes = stops[state.unit].map((stop) => stop.item.element.getClientRects()[0]);
  const here = boxes[state.stop];
  let best = -1;
  let bestScore = Infinity;
  boxes.forEach((box, i) => {
    const down = (box.top - here.top) * direction;
    if (down < here.height * 0.6) return;
    const score = down * 1000 + Math.abs(box.left - here.left);
    if (score < bestScore) { best = i; bestScore = score; }
  });
  return best < 0 ? state.stop : best;
}
function listenToKeys() {
  textBox.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = stops[state.unit].length - 1;
    const moves = {
      ArrowRight: () => state.stop + 1, ArrowLeft: () => state.stop - 1,
      ArrowDown: () => acrossLines(1), ArrowUp: () => acrossLines(-1), Home: () => 0, End: () => last,
    };
    if (moves[event.key]) {
      event.preventDefault();
      tooltip.hidden = true;
      choose(moves[event.key](), true);
      if (state.held) paintHint();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      hold(!state.held);
    }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { hold(false); tooltip.hidden = true; } });
}
function chooseHead(layer, view) {
  state.method = byId("method").value = "attention";
  state.layer = byId("layer").value = String(layer);
  const head = attention.reduced && view === 0 ? "mean" : String(view);
  state.head = byId("head").value = head;
  changed();
}
function listenToHeads() {
  fillSelect(byId("heads-kind"), [["strip", "where it looks"], ...(attention.reduced ? [] : statistics.map((name) => [name, spaced(name)]))], "strip");
  byId("heads-kind").addEventListener("change", drawHeads);
  byId("heads-kind-label").hidden = byId("heads-kind").options.length < 2;
  heads.canvas.addEventListener("pointermove", (event) => { const at = headAt(event); readHead(at ? at[0] : null, at ? at[1] : 0); });
  heads.canvas.addEventListener("click", (event) => {
    const at = headAt(event);
    if (at) { heads.cursor = at; chooseHead(...at); }
  });
  for (const name of ["focus", "blur"]) heads.canvas.addEventListener(name, drawHeads);
  heads.canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const [layer, view] = heads.cursor;
    if (move) {
      heads.cursor = [
        Math.max(0, Math.min(attention.layers - 1, layer + move[0])),
        Math.max(0, Math.min(attention.views.length - 1, view + move[1])),
      ];
      readHead(...heads.cursor);
      drawHeads();
    } else if (event.key === "Enter" || event.key === " ") chooseHead(layer, view);
    else return;
    event.preventDefault();
  });
}
function listenToMatrix() {
  matrix.canvas.addEventListener("pointermove", readMatrix);
  matrix.canvas.addEventListener("click", (event) => {
    const at = matrixAt(event);
    if (at) { choose(at[1], false); hold(true); }
  });
}

// Where to begin: the written word that owes most to a single other one; line breaks apart.
function mostTelling() {
  const speaks = (item) => /[\p{L}\p{N}]/u.test(item.label);
  const found = new Float64Array(tokenCount);
  let best = 0;
  let most = -1;
  stops.words.forEach((stop, i) => {
    if (!speaks(stop.item)) return;
    fillScores(found, stop.targets);
    for (const item of items.words) {
      const size = item.start || item === stop.item || !speaks(item) ? 0 : Math.abs(sumOver(found, item.tokens));
      if (size > most) { most = size; best = i; }
    }
  });
  return best;
}
function start() {
  startTheme();
  byId("made-by").textContent = record.caption;
  byId("warnings").hidden = !record.warnings.length;
  byId("warnings").append(make("ul", {}, ...record.warnings.map((text) => make("li", {}, text))));
  byId("alternatives-key").hidden = !hasBase;
  buildText();
  fillControls();
  setUnit("words");
  state.stop = mostTelling();
  arrangeControls();
  listenToMouse();
  listenToKeys();
  paintHint();
  if (stops.words.length > 1) {
    setText(byId("matrix-about"), "One row for each written word, one column for each word it could owe something to; every row has its own scale, and grey is what comes later. A click chooses the row.");
    addSection("matrix-section", drawMatrix);
    listenToMatrix();
  }
  if (hasRows) { addSection("attention-section", drawHeads); listenToHeads(); }
  if (record.lens) addSection("lens-section", drawLens);
  if (record.difference) addSection("difference-section", drawDifference);
  if (record.story) addSection("story-section", drawStory);
  if (record.faithfulness) addSection("faithfulness-section", drawFaithfulness);
  addSection("settings-section", () => {});
  drawSettings();
  onTheme.push(() => { clearColours(); changed(); });
  redraw();
  for (const element of sections.keys()) watcher.observe(element);
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; redrawSections(); } });
}
function clearColours() { // what is drawn once is drawn again too
  for (const unit of ["words", "tokens"]) for (const item of items[unit]) item.colour = null;
  movedBox = kindBox = null;
}
start();
