// What files become: documents, what was kept and left out and why, trained and masked tokens.
import { html, nothing } from "/vendor/lit-html.js";
import { counted, grouped } from "../ui.js";

/** @param {number} part */
const percent = (part) => `${(100 * part).toFixed(part < 0.1 || part > 0.999 ? 1 : 0)} %`;

/** @param {Record<string, number>} counts @returns {string} `3 short lines, 1 table of contents` */
function reasons(counts) {
  return Object.entries(counts ?? {}).map(([reason, count]) => `${grouped(count)} ${reason}`).join(", ");
}

/** @param {any} found the result of `cwgpt data inspect` */
export function inspection(found) {
  const sizes = [counted(found.documents, "document"), counted(found.words, "word")];
  if (found.tokens !== null) sizes.push(counted(found.tokens, "token"));
  const sources = Object.entries(found.sources);
  return html`<p><strong>${sizes.join(", ")}</strong>${found.rows ? html`;
      ${counted(found.rows.count, "row")} of ${found.rows.length}, ${percent(found.rows.filled)} filled,
      ${grouped(found.rows.trained_tokens)} tokens trained on per epoch` : nothing}.</p>
    ${Object.entries(found.missing ?? {}).map(([name, why]) => html`<p class="note">${name} is left out: ${why}</p>`)}
    ${sources.map(([name, source]) => oneSource(name, source))}
    ${found.examples?.length ? examples(found.examples) : nothing}`;
}

/** @param {string} name @param {any} source */
function oneSource(name, source) {
  const gone = { ...source.dropped };
  if (source.duplicates) gone["exact duplicates"] = source.duplicates;
  if (source.near_duplicates) gone["near duplicates of held-out documents"] = source.near_duplicates;
  const files = /** @type {[string, any][]} */ (Object.entries(source.files ?? {}));
  return html`<div class="source"><h3>${name} <span class="quiet">${source.form}</span></h3>
    <p class="small">${counted(source.documents, "document")}, ${counted(source.words, "word")}:
      ${grouped(source.split.train)} to train on, ${grouped(source.split.validation)} held out to judge by.
      ${source.joints && Object.keys(source.joints).length ? html`Prompts and texts are told apart.` : nothing}</p>
    ${Object.keys(gone).length ? html`<p class="small">Left out: ${reasons(gone)}.</p>` : nothing}
    ${Object.keys(source.flagged ?? {}).length ? html`<p class="small">Noticed and kept: ${reasons(source.flagged)}.</p>` : nothing}
    ${(source.notes ?? []).map((/** @type {string} */ note) => html`<p class="note">${note}</p>`)}
    ${files.length ? html`<div class="wide" tabindex="0" role="region" aria-label=${`Files of ${name}`}><table class="figures">
      <thead><tr><th scope="col" class="text">file</th><th scope="col">characters</th><th scope="col">kept</th><th scope="col" class="text">left out</th></tr></thead>
      <tbody>${files.map(([file, one]) => html`<tr class=${one.refused || one.share < 0.5 ? "warn" : nothing}>
        <th scope="row" class="text">${file}</th>
        ${one.refused ? html`<td></td><td></td><td class="text">not read: ${one.refused}</td>`
          : html`<td>${grouped(one.characters)}</td><td>${percent(one.share)}</td><td class="text">${reasons(one.left_out)}</td>`}
      </tr>`)}</tbody></table></div>` : nothing}
  </div>`;
}

/** @param {any[]} rows */
function examples(rows) {
  return html`<details><summary>Some rows as the model reads them</summary>
    <p class="small quiet">Plain: trained on. <span class="masked">⟦In brackets⟧</span>: read, but not trained on (masked).
      &lt;end&gt;: end of a text. Padding fills the row.</p>
    ${rows.map((row) => html`<div class="example">${row.pieces.map((/** @type {any} */ piece) => html`<p><span class="small quiet">${piece.source}</span>
      ${piece.runs.map((/** @type {any} */ run) => run.trained ? html`<span>${cut(run.text)}</span>`
        : html`<span class="masked">⟦${cut(run.text)}⟧</span>`)}</p>`)}
      ${row.padding ? html`<p class="small quiet">${counted(row.padding, "position")} of padding</p>` : nothing}</div>`)}
  </details>`;
}

/** @param {string} text */
function cut(text) {
  return text.length <= 900 ? text : `${text.slice(0, 600)} […] ${text.slice(-200)}`;
}
