// Texts as they are typed in fields, and sentences as they are heard; no page needed.
const SENTENCE = /[^.!?…]*[.!?…]+["”’'»)\]]*(?=\s)/u;

/**
 * The finished sentences at the beginning of a text.
 * @param {string} text
 * @returns {{sentences: string[], rest: string}}
 */
export function finishedSentences(text) {
  const sentences = [];
  for (;;) {
    const found = SENTENCE.exec(text);
    if (!found) return { sentences, rest: text };
    const end = found.index + found[0].length;
    const sentence = text.slice(0, end).trim();
    if (sentence) sentences.push(sentence);
    text = text.slice(end);
  }
}

/** Keys as they are typed, with a comma between them; a regular expression may hold commas. @param {string} text */
export function splitKeys(text) {
  const found = text.match(/(?:\/(?:\\.|[^/\\])+\/[a-z]*|[^,/]|\/)+/g) ?? [];
  return found.map((one) => one.trim()).filter(Boolean);
}

/** Line ends and tabs as they are typed in a field of one text a line. @param {string} text */
export function escaped(text) {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
}

/**
 * The value of a field with one text a line.
 * @param {string} text
 * @param {any} before its present value
 * @param {{name: string, kind: string}} field
 */
export function lines(text, before, field) {
  const list = text.split("\n").filter((one) => one.trim() !== "");
  if (!list.length) return null;
  if (field.name === "logit_bias" || (before && typeof before === "object" && !Array.isArray(before))) {
    return Object.fromEntries(list.map((one) => {
      const at = one.lastIndexOf("=");
      return at < 0 ? [one, 0] : [one.slice(0, at), Number(one.slice(at + 1))];
    }));
  }
  if (field.kind === "text") return text;
  return list.map((one) => one.replace(/\\([nt\\])/g, (_all, sign) => ({ n: "\n", t: "\t" })[/** @type {"n"} */ (sign)] ?? "\\"));
}

/** A text with a capital letter at its beginning. @param {string} text */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
