// The text itself: words or tokens that can be coloured, and among them those that can be chosen.
// An item has one element, or more where white space that stays white divides it (line breaks).

const textBox = byId("text");
const items = { words: [], tokens: [] }; // {element, all, tokens, label, kinds, start}
const stops = { words: [], tokens: [] }; // {item, targets, position, label}
const itemOfToken = { words: new Int32Array(tokenCount).fill(-1), tokens: new Int32Array(tokenCount).fill(-1) };

function addItem(unit, element, tokens, label, word) {
  const known = itemOfToken[unit][tokens[0]];
  const index = known < 0 ? items[unit].length : known;
  element.dataset[unit === "words" ? "w" : "t"] = index;
  if (known >= 0) {
    items[unit][known].all.push(element);
    return;
  }
  items[unit].push({
    element, all: [element], tokens, label, kinds: word ? word.kinds : [], start: tokens[0] === 0, word,
    colour: "", later: false, value: 0,
  });
  for (const token of tokens) itemOfToken[unit][token] = index;
}
function pieceElement(piece) {
  const element = make("span", { className: "t" }, piece.text);
  if (piece.sign) element.append(make("span", { className: "sign" }, piece.sign));
  addItem("tokens", element, piece.tokens, pretty(piece.text + (piece.sign || ""), piece.glued), words[piece.word]);
  return element;
}
function buildText() {
  const start = make("span", { className: "w t start", title: "the start token: what the model reads before the text" }, "start");
  addItem("words", start, [0], "start", words[0]);
  addItem("tokens", start, [0], "start", words[0]);
  const fragment = document.createDocumentFragment();
  if (record.before) fragment.append(make("span", { className: "out", title: "out of the model's view" }, record.before));
  fragment.append(start);
  let open = null;
  let openWord = -1;
  let part = "";
  for (const piece of record.pieces) {
    // Memory, lore and note are told from the story by their name before them.
    if (piece.tokens !== undefined && (piece.part || "") !== part) {
      part = piece.part || "";
      fragment.append(make("span", { className: "part", title: "what the model reads beside the story" }, part || "story"));
    }
    if (piece.tokens === undefined) { // white space between words
      fragment.append(piece.text);
      open = null;
      continue;
    }
    const blank = !piece.text.trim() && !piece.sign;
    if (blank || !words[piece.word]) {
      fragment.append(pieceElement(piece));
      continue;
    }
    if (open === null || openWord !== piece.word) {
      const word = words[piece.word];
      open = make("span", { className: word.written ? "w" : "w prompt" });
      openWord = piece.word;
      addItem("words", open, word.tokens, pretty(word.text), word);
      fragment.append(open);
    }
    open.append(pieceElement(piece));
  }
  textBox.append(fragment);
  buildStops();
}
function buildStops() {
  for (const unit of ["words", "tokens"]) {
    const byItem = new Map();
    targets.forEach((target, t) => {
      let index = target.position < tokenCount ? itemOfToken[unit][target.position] : -1;
      if (index < 0) index = "next" + target.position;
      if (!byItem.has(index)) byItem.set(index, []);
      byItem.get(index).push(t);
    });
    for (const [index, group] of byItem) {
      const item = typeof index === "number" ? items[unit][index] : nextItem(group);
      for (const element of item.all) element.dataset["stop" + cap(unit)] = stops[unit].length;
      stops[unit].push({ item, targets: group, position: targets[group[0]].position, label: item.label });
    }
  }
}
// What would come next stands after the text, once for both units.
let nextWord = null;
function nextItem(group) {
  if (!nextWord) {
    const label = pretty(targets[group[0]].text, targets[group[0]].glued);
    const element = make("span", { className: "w t next", title: "what comes next" }, label);
    textBox.append(element);
    nextWord = { element, all: [element], tokens: [], label, kinds: [], start: false, colour: "", later: false, value: 0 };
  }
  return nextWord;
}

const scores = new Float64Array(tokenCount);
const currentStop = () => stops[state.unit][state.stop];
let scale = 0;

// Colours every word by its score for the chosen one; touches only what changed.
function paintText() {
  const stop = currentStop();
  const shown = items[state.unit];
  const withSign = isSigned();
  fillScores(scores, stop.targets);
  scale = 0;
  for (const item of shown) {
    item.value = sumOver(scores, item.tokens);
    if (!item.start && item !== stop.item) scale = Math.max(scale, Math.abs(item.value));
  }
  for (const item of shown) {
    const later = item.tokens[0] >= stop.position && item !== stop.item;
    const colour = later ? "" : tint(item.value, scale, withSign);
    if (later !== item.later) { for (const element of item.all) element.classList.toggle("later", later); item.later = later; }
    if (colour !== item.colour) { for (const element of item.all) element.style.backgroundColor = colour; item.colour = colour; }
    if (state.numbers) {
      item.element.dataset.n = later || item === stop.item ? "" : withSign ? signed(item.value, 2) : plain(item.value, 2);
    }
  }
}
let marked = null;
function markStop() {
  const stop = currentStop();
  if (marked && marked !== stop.item) {
    for (const element of marked.all) element.classList.remove("now");
    marked.element.tabIndex = -1;
    marked.element.setAttribute("aria-pressed", "false");
  }
  marked = stop.item;
  for (const element of marked.all) element.classList.add("now");
  marked.element.tabIndex = 0;
  marked.element.setAttribute("aria-pressed", "true");
}
function clearText(unit) {
  for (const item of items[unit]) {
    for (const element of item.all) {
      element.style.backgroundColor = "";
      element.classList.remove("later");
    }
    item.element.removeAttribute("data-n");
    item.colour = "";
    item.later = false;
  }
}
// Changing between words and tokens keeps the place.
function setUnit(unit) {
  const position = currentStop().position;
  clearText(state.unit);
  if (marked) {
    for (const element of marked.all) element.classList.remove("now");
    marked.element.tabIndex = -1;
  }
  marked = null;
  state.unit = unit;
  const at = stops[unit].findIndex((stop) => stop.targets.some((t) => targets[t].position === position));
  state.stop = Math.max(0, at);
  textBox.classList.toggle("by-words", unit === "words");
  textBox.classList.toggle("by-tokens", unit === "tokens");
  const stopName = "stop" + cap(unit);
  for (const { item } of [...stops.words, ...stops.tokens]) {
    const active = item.element.dataset[stopName] !== undefined;
    for (const element of item.all) element.classList.toggle("stop", active);
    if (active) {
      item.element.setAttribute("role", "button");
      item.element.tabIndex = -1;
    } else {
      item.element.removeAttribute("role");
      item.element.removeAttribute("tabindex");
    }
  }
}
