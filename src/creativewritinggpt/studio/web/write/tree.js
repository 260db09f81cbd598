// Layout of the tree of passages: runs without a fork are one row, each way on has a lane of its own.

/**
 * @typedef {object} Node
 * @property {number} id
 * @property {number} parent
 * @property {string} by
 * @property {string} begins
 * @property {number} words
 * @property {string[]} [branches] names of the branches that end here
 */

/**
 * @typedef {object} Row
 * @property {number} id last passage of the run
 * @property {number[]} ids passages of the run
 * @property {string} begins
 * @property {string[]} by who wrote in it
 * @property {number} words
 * @property {string[]} branches
 * @property {number} lane
 * @property {number} level 1 at the root
 * @property {number} parent index of the row before it, -1 at the root
 * @property {boolean} current on the current branch
 * @property {boolean} aside no branch reaches it
 * @property {number} place 1-based among its siblings
 * @property {number} siblings
 * @property {{lane: number, current: boolean}[]} through lanes that pass by
 */

/**
 * @param {Node[]} passages all, in the order of writing
 * @param {string} branch name of the current one
 * @returns {Row[]} in the order of drawing: a row after its parent, the current branch in lane 0
 */
export function layoutTree(passages, branch) {
  /** @type {Map<number, Node[]>} */
  const children = new Map();
  /** @type {Map<number, Node>} */
  const byId = new Map();
  for (const one of passages) {
    byId.set(one.id, one);
    const list = children.get(one.parent);
    if (list) list.push(one);
    else children.set(one.parent, [one]);
  }
  /** @type {(head: Node | undefined, set: Set<number>) => Set<number>} */
  const pathInto = (head, set) => {
    for (let one = head; one && !set.has(one.id); one = byId.get(one.parent)) set.add(one.id);
    return set;
  };
  const head = passages.find((one) => one.branches?.includes(branch));
  const current = pathInto(head, new Set());
  /** @type {Set<number>} */
  const reached = new Set();
  for (const one of passages) if (one.branches?.length) pathInto(one, reached);

  /** @type {Row[]} */
  const rows = [];
  let lanes = 1;
  /** @type {{node: Node, lane: number, level: number, parent: number, place: number, siblings: number}[]} */
  const open = [];

  /** @param {Node[]} list @param {number} lane @param {number} level @param {number} parent */
  const push = (list, lane, level, parent) => {
    // Side ways first, so that the way on stays in its lane and is drawn last, below them.
    const ahead = list.find((one) => current.has(one.id)) ??
      list.findLast((one) => reached.has(one.id)) ?? list[list.length - 1];
    const ways = [...list.filter((one) => one !== ahead), ahead].filter(Boolean);
    const entries = ways.map((node) => ({
      node, level, parent, siblings: list.length, place: list.indexOf(node) + 1, lane: node === ahead ? lane : lanes++,
    }));
    open.push(...entries.reverse());
  };
  push(children.get(-1) ?? [], 0, 1, -1);
  while (open.length) {
    const entry = /** @type {(typeof open)[0]} */ (open.pop());
    let node = entry.node;
    const ids = [node.id];
    const by = new Set([node.by]);
    let { words } = node;
    for (;;) {
      const next = children.get(node.id) ?? [];
      if (next.length !== 1 || node.branches?.length || next[0].by === "chapter" ||
        reached.has(next[0].id) !== reached.has(node.id)) break;
      [node] = next;
      ids.push(node.id);
      by.add(node.by);
      words += node.words;
    }
    rows.push({
      id: node.id, ids, begins: entry.node.begins, by: [...by], words, branches: node.branches ?? [],
      lane: entry.lane, level: entry.level, parent: entry.parent, place: entry.place, siblings: entry.siblings,
      current: current.has(entry.node.id), aside: !reached.has(entry.node.id), through: [],
    });
    const next = children.get(node.id) ?? [];
    if (next.length) push(next, entry.lane, entry.level + 1, rows.length - 1);
  }
  compact(rows);
  return rows;
}

/** Give lanes that are free again to later ways, and note which lanes pass by a row. @param {Row[]} rows */
function compact(rows) {
  const hasCurrent = rows.some((row) => row.current);
  /** @type {Map<number, [number, number]>} */
  const spans = new Map();
  rows.forEach((row, at) => {
    const start = row.parent >= 0 ? row.parent : at;
    const span = spans.get(row.lane);
    if (span) spans.set(row.lane, [Math.min(span[0], start), at]);
    else spans.set(row.lane, [start, at]);
  });
  /** @type {[number, number][]} */
  const busy = []; // by new lane: first and last row of what is there now
  /** @type {Map<number, number>} */
  const renamed = new Map();
  for (const [lane, span] of [...spans].sort((a, b) => a[1][0] - b[1][0] || a[0] - b[0])) {
    let place = lane === 0 ? 0 : busy.findIndex((one, at) => at > 0 && one[1] < span[0]);
    if (place < 0) place = Math.max(1, busy.length);
    busy[place] = span;
    renamed.set(lane, place);
    for (let at = span[0] + 1; at < span[1]; at++) if (rows[at].lane !== lane) rows[at].through.push({ lane: place, current: lane === 0 && hasCurrent });
  }
  for (const row of rows) row.lane = renamed.get(row.lane) ?? 0;
}

/**
 * Find the passages of the model that stand beside one: its versions, itself included.
 * @param {{id: number, parent: number, by: string, copy_of?: number | null}[]} passages all of the tree
 * @param {number} id
 * @returns {number[]} ids in the order of writing
 */
export function versionsOf(passages, id) {
  const one = passages.find((passage) => passage.id === id);
  if (!one) return [];
  return passages
    .filter((passage) => passage.parent === one.parent && passage.by === "model" && (passage.copy_of ?? null) === null)
    .map((passage) => passage.id);
}

/**
 * The last passage that was written on from one: where a reader who goes back to it wants to be.
 * @param {{id: number, parent: number}[]} passages in the order of writing
 * @param {number} id
 */
export function latestUnder(passages, id) {
  const under = new Set([id]);
  let last = id;
  for (const passage of passages) {
    if (passage.id > id && under.has(passage.parent)) {
      under.add(passage.id);
      last = passage.id;
    }
  }
  return last;
}

/**
 * The tree as an object, whichever way the studio gives it.
 * @param {any} answer
 * @returns {{passages: any[]}}
 */
export function normalTree(answer) {
  return Array.isArray(answer) ? { passages: answer } : answer;
}
