// The two large pictures: all words against all words, and all heads of all layers.
// Both are drawn one pixel a number and then stretched, so that size costs nothing.

function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, width, height);
  return context;
}
function pixels(width, height) {
  const canvas = make("canvas", { width: Math.max(width, 1), height: Math.max(height, 1) });
  return [canvas, canvas.getContext("2d").createImageData(canvas.width, canvas.height)];
}
function putPixel(image, at, value, most, withSign) {
  const [r, g, b] = !withSign ? colours.size : value > 0 ? colours.plus : colours.minus;
  image.data.set([r, g, b, Math.round(255 * Math.min(1, strength(value, most) / colours.most))], 4 * at);
}
const FONT = "11px system-ui, sans-serif";
function clip(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let kept = Array.from(text);
  while (kept.length > 1 && context.measureText(kept.join("") + "…").width > width) kept = kept.slice(0, -1);
  return kept.join("") + "…";
}

// --- all words at once -------------------------------------------------------------------------
const matrix = { canvas: byId("matrix"), cell: 8, left: 0, top: 0, picture: null, values: null };
function computeMatrix() {
  const rows = stops[state.unit];
  const columns = items[state.unit];
  const [picture, image] = pixels(columns.length, rows.length);
  const withSign = isSigned();
  const found = new Float64Array(tokenCount);
  matrix.values = new Float32Array(rows.length * columns.length);
  rows.forEach((stop, y) => {
    fillScores(found, stop.targets);
    let most = 0;
    columns.forEach((item, x) => {
      const value = sumOver(found, item.tokens);
      matrix.values[y * columns.length + x] = value;
      if (!item.start) most = Math.max(most, Math.abs(value));
    });
    columns.forEach((item, x) => {
      const at = y * columns.length + x;
      if (item.tokens[0] >= stop.position) image.data.set([...colours.mask, 255], 4 * at);
      else putPixel(image, at, matrix.values[at], most, withSign);
    });
  });
  picture.getContext("2d").putImageData(image, 0, 0);
  matrix.picture = picture;
}
function drawMatrix() {
  if (!matrix.picture) computeMatrix();
  const rows = stops[state.unit];
  const columns = items[state.unit];
  const room = Math.max(matrix.canvas.parentElement.clientWidth, 300);
  const cell = Math.max(2, Math.min(15, Math.floor((room - 110) / columns.length)));
  const labels = cell >= 11;
  Object.assign(matrix, { cell, left: labels ? 100 : 0, top: labels ? 84 : 0 });
  const context = sized(matrix.canvas, matrix.left + cell * columns.length + 2, matrix.top + cell * rows.length + 2);
  context.drawImage(matrix.picture, matrix.left, matrix.top, cell * columns.length, cell * rows.length);
  if (labels) {
    context.font = FONT;
    context.textBaseline = "middle";
    rows.forEach((stop, y) => {
      context.fillStyle = y === state.stop ? colours.ink : colours.quiet;
      context.textAlign = "right";
      context.fillText(clip(context, stop.label, 92), matrix.left - 5, matrix.top + cell * (y + 0.5));
    });
    context.textAlign = "left";
    context.fillStyle = colours.quiet;
    columns.forEach((item, x) => {
      context.save();
      context.translate(matrix.left + cell * (x + 0.5), matrix.top - 5);
      context.rotate(-Math.PI / 2);
      context.fillText(clip(context, item.label, 76), 0, 0);
      context.restore();
    });
  }
  context.strokeStyle = colours.accent;
  context.lineWidth = 2;
  context.strokeRect(matrix.left + 1, matrix.top + cell * state.stop, cell * columns.length, Math.max(cell, 3));
}
function matrixAt(event) {
  const box = matrix.canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left - matrix.left) / matrix.cell);
  const y = Math.floor((event.clientY - box.top - matrix.top) / matrix.cell);
  return x >= 0 && x < items[state.unit].length && y >= 0 && y < stops[state.unit].length ? [x, y] : null;
}
function readMatrix(event) {
  const at = matrixAt(event);
  if (!at) return setText(byId("matrix-readout"), "\u00a0");
  const [x, y] = at;
  const item = items[state.unit][x];
  const stop = stops[state.unit][y];
  const value = matrix.values[y * items[state.unit].length + x];
  return setText(byId("matrix-readout"), item.tokens[0] >= stop.position
    ? `“${item.label}” comes after “${stop.label}”`
    : `“${stop.label}” from “${item.label}”: ${isSigned() ? signed(value) : plain(value)} ${unitName()}`);
}

// --- all heads ---------------------------------------------------------------------------------
const heads = { canvas: byId("heads"), cursor: [0, 0], wide: 60, high: 16, left: 56, top: 18 };
const statistics = attention ? Object.keys(attention.statistics || {}) : [];
function headStrip(image, layer, view, group, row, wide) {
  const at = (layer * attention.views.length + view) * rowTotal;
  const seen = new Float32Array(wide);
  for (const t of group) {
    for (let i = 1; i < targets[t].position; i++) {
      const x = Math.min(wide - 1, Math.floor(((i - 1) * wide) / Math.max(tokenCount - 1, 1)));
      const end = Math.max(x + 1, Math.min(wide, Math.floor((i * wide) / Math.max(tokenCount - 1, 1))));
      const weight = weightOfByte[attention.rows[at + rowStart[t] + i]];
      for (let k = x; k < end; k++) seen[k] = Math.max(seen[k], weight);
    }
  }
  let most = 0;
  for (const value of seen) most = Math.max(most, value);
  const offset = row * image.width + view * wide;
  for (let k = 0; k < wide; k++) putPixel(image, offset + k, seen[k], most, false);
}
function drawHeads() {
  const views = attention.views.length;
  const kind = byId("heads-kind").value;
  const room = Math.max(heads.canvas.parentElement.clientWidth, 320) - heads.left - 8;
  heads.wide = Math.max(22, Math.min(attention.reduced ? 420 : 110, Math.floor(room / views)));
  const width = heads.left + heads.wide * views + 2;
  const context = sized(heads.canvas, width, heads.top + heads.high * attention.layers + 2);
  context.font = FONT;
  context.textBaseline = "middle";
  context.fillStyle = colours.quiet;
  context.textAlign = "center";
  attention.views.forEach((name, view) => context.fillText(clip(context, name, heads.wide - 2), heads.left + heads.wide * (view + 0.5), 8));
  context.textAlign = "right";
  for (let layer = 0; layer < attention.layers; layer++) context.fillText("layer " + layer, heads.left - 4, heads.top + heads.high * (layer + 0.5));
  const strips = kind === "strip";
  const wide = strips ? heads.wide - 3 : 1;
  const [picture, image] = pixels(views * wide, attention.layers);
  const table = strips ? null : attention.statistics[kind];
  const most = strips ? 0 : Math.max(...table.flat().map(Math.abs), 1e-9);
  for (let layer = 0; layer < attention.layers; layer++) {
    for (let view = 0; view < views; view++) {
      if (strips) headStrip(image, layer, view, currentStop().targets, layer, wide);
      else putPixel(image, layer * views + view, table[layer][view], most, false);
    }
  }
  picture.getContext("2d").putImageData(image, 0, 0);
  for (let layer = 0; layer < attention.layers; layer++) {
    for (let view = 0; view < views; view++) {
      const x = heads.left + heads.wide * view;
      const y = heads.top + heads.high * layer;
      context.drawImage(picture, view * wide, layer, wide, 1, x, y, heads.wide - 3, heads.high - 3);
      context.strokeStyle = colours.line;
      context.lineWidth = 1;
      context.strokeRect(x - 0.5, y - 0.5, heads.wide - 2, heads.high - 2);
    }
  }
  const outline = (layer, view, colour, line) => {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.strokeRect(heads.left + heads.wide * view - 1, heads.top + heads.high * layer - 1, heads.wide - 1, heads.high - 1);
  };
  if (usesRows() && state.layer !== "mean" && state.layer !== "rollout" && state.head !== "mean") outline(Number(state.layer), Number(state.head), colours.accent, 3);
  if (document.activeElement === heads.canvas) outline(heads.cursor[0], heads.cursor[1], colours.ink, 2);
}
function readHead(layer, view) {
  if (layer === null) return setText(byId("heads-readout"), "\u00a0");
  const facts = attention.reduced ? [] : statistics.map((name) => `${spaced(name)} ${plain(attention.statistics[name][layer][view], 2)}`);
  return setText(byId("heads-readout"), `layer ${layer}, ${attention.reduced ? attention.views[view] : "head " + view}` + (facts.length ? ": " + facts.join(" · ") : ""));
}
function headAt(event) {
  const box = heads.canvas.getBoundingClientRect();
  const view = Math.floor((event.clientX - box.left - heads.left) / heads.wide);
  const layer = Math.floor((event.clientY - box.top - heads.top) / heads.high);
  return view >= 0 && view < attention.views.length && layer >= 0 && layer < attention.layers ? [layer, view] : null;
}
