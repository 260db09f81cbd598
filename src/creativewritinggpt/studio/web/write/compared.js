// Two texts side by side: what is asked for, and which words differ.

/** Words with the blanks after them, so that they join to the text. @param {string} text */
export function words(text) {
  return text.match(/\s*\S+|\s+$/g) ?? [];
}

/**
 * The words of two texts, each marked where the other text does not have it (longest common
 * subsequence).
 * @param {string} one @param {string} other
 * @returns {[{text: string, differs: boolean}[], {text: string, differs: boolean}[]]}
 */
export function compareWords(one, other) {
  const a = words(one);
  const b = words(other);
  const width = b.length + 1;
  const table = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i * width + j] = a[i].trim() === b[j].trim()
        ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  /** @type {{text: string, differs: boolean}[]} */
  const left = [];
  /** @type {{text: string, differs: boolean}[]} */
  const right = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i].trim() === b[j].trim()) {
      left.push({ text: a[i++], differs: false });
      right.push({ text: b[j++], differs: false });
    } else if (j >= b.length || (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) {
      left.push({ text: a[i++], differs: true });
    } else {
      right.push({ text: b[j++], differs: true });
    }
  }
  return [left, right];
}

/** Runs of words that are alike in whether they differ. @param {{text: string, differs: boolean}[]} marked */
export function runs(marked) {
  /** @type {{text: string, differs: boolean}[]} */
  const found = [];
  for (const word of marked) {
    const last = found[found.length - 1];
    if (last && last.differs === word.differs) last.text += word.text;
    else found.push({ ...word });
  }
  return found;
}

/**
 * What a choice asks of the studio.
 * @param {string} value as `base`, `tuned`, `model 3f2a`, `preset mystery`, `style 0.5`
 * @returns {Record<string, any>}
 */
export function wish(value) {
  const [kind, ...rest] = value.split(" ");
  const name = rest.join(" ");
  if (kind === "base") return { adapters: false };
  if (kind === "model") return { model: name };
  if (kind === "preset") return { preset: name };
  if (kind === "style") return { style: Number(name) };
  return {};
}
