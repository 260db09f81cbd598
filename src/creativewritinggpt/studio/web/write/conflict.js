// Dialogs for text that the studio did not take: nothing that was typed is dropped without a word.
import { ask } from "../ui.js";
import { html } from "/vendor/lit-html.js";
import { difference, toChanges } from "./document.js";
import { showForeign } from "./editor.js";

const AROUND = 160; // characters shown around what differs

/** @param {string} text @param {number} from @param {number} to */
function excerpt(text, from, to) {
  const start = Math.max(0, from - AROUND);
  const end = Math.min(text.length, to + AROUND);
  return html`<p class="version">${start > 0 ? "…" : ""}${text.slice(start, from)}<mark>${text.slice(from, to)}</mark>${text.slice(to, end)}${end < text.length ? "…" : ""}</p>`;
}

/**
 * The text was changed elsewhere while something was typed here: show both, let the author choose.
 * @param {import("./room.js").Write} write
 * @param {import("./document.js").StoryDocument} doc
 */
export async function conflictDialog(write, doc) {
  // Events go on while the dialog is open, so the studio's version is asked for each time.
  const elsewhere = () => ({ text: doc.confirmed.toString(), revision: doc.revision });
  const mine = doc.shown.toString();
  const theirs = elsewhere();
  const [change] = difference(theirs.text, mine);
  if (!change) {
    doc.settle(theirs, []);
    return;
  }
  const [from, to, insert] = change;
  const choice = await ask("The story was changed elsewhere", html`
    <p>While you wrote here, the text was changed in another tab or program. Both versions are kept until you choose.</p>
    <div class="versions">
      <section><h3>Here</h3>${excerpt(mine, from, from + insert.length)}</section>
      <section><h3>Elsewhere</h3>${excerpt(theirs.text, from, to)}</section>
    </div>`, [
    { label: "Take theirs", value: "theirs" },
    { label: "Keep mine", value: "mine" },
    { label: "Keep both, mine as a branch", value: "both", primary: true },
  ]) ?? "both"; // closing the dialog loses nothing either
  if (choice === "theirs") {
    const now = doc.shown.toString();
    const { text, revision } = elsewhere();
    doc.settle({ text, revision }, []);
    showForeign(write.view, toChanges(difference(now, text), now.length));
    return;
  }
  if (choice === "both") {
    try {
      await write.app.api("POST", "/api/story/branch",
        { tab: write.app.tab, n: doc.n, revision: doc.revision });
      write.status("Your version is a branch of its own; the other one is among the branches.");
    } catch (error) {
      write.failed(error);
    }
  }
  const { text, revision } = elsewhere();
  doc.settle({ text, revision }, difference(text, doc.shown.toString()));
}

/**
 * Something that was typed has no place in the text any more.
 * @param {import("./room.js").Write} write
 * @param {string[]} texts
 */
export async function lostDialog(write, texts) {
  if (!texts.length) return;
  const text = texts.join("\n\n");
  const choice = await ask("Text that was not saved", html`
    <p>This was typed here before the page was left, and the story has changed since:</p>
    <p class="version">${text}</p>`, [
    { label: "Drop it", value: "drop" },
    { label: "Copy it", value: "copy" },
    { label: "Put it at the end", value: "end", primary: true },
  ]);
  if (choice === "copy") await navigator.clipboard.writeText(text);
  if (choice !== "end") return;
  const { length } = write.view.state.doc;
  write.view.dispatch({ changes: { from: length, insert: (length ? "\n\n" : "") + text }, scrollIntoView: true });
}
