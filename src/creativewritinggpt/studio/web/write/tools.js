// The commands below the text, their keys, the count of words and the versions at the caret.
import { ask, counted, element, grouped, later } from "../ui.js";
import { readable } from "../keys.js";
import { openSearchPanel } from "/vendor/codemirror.js";
import { html, render } from "/vendor/lit-html.js";
import { latestUnder, normalTree, versionsOf } from "./tree.js";

/**
 * @param {import("./room.js").Write} write
 * @param {ReturnType<typeof import("./layout.js").buildLayout>} layout
 * @param {ReturnType<typeof import("./writing.js").createWriting>} jobs
 */
export function createTools(write, layout, jobs) {
  const { app, view } = write;
  /** @type {Map<string, {button: HTMLButtonElement, run: () => unknown}>} */
  const commands = new Map();
  const groups = ["go", "versions", "history", "insight"].map((name) =>
    element("div", { class: `group ${name}` }));
  layout.tools.append(...groups);

  // One tab stop; the arrows go along the row.
  layout.tools.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    const buttons = [...layout.tools.querySelectorAll("button")].filter((one) => !one.hidden && !one.disabled);
    const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (at < 0) return;
    event.preventDefault();
    const next = step === -Infinity ? 0 : step === Infinity ? buttons.length - 1 : (at + step + buttons.length) % buttons.length;
    buttons[next].focus();
  });
  layout.tools.addEventListener("focusin", (event) => {
    for (const one of layout.tools.querySelectorAll("button")) one.tabIndex = one === event.target ? 0 : -1;
  });

  /**
   * A button of the tool bar, and its key.
   * @param {string} name
   * @param {(event?: Event) => unknown} run
   * @param {string | string[]} [keys]
   * @param {{title?: string, group?: HTMLElement, primary?: boolean, label?: string, when?: () => boolean}} [options]
   */
  function command(name, run, keys = [], { title, group, primary = false, label, when } = {}) {
    const button = element("button", { type: "button", class: primary ? "primary" : "", tabindex: commands.size ? "-1" : "0" }, name);
    const list = typeof keys === "string" ? [keys] : keys;
    const hint = [title, list.length ? `(${readable(list[0])})` : ""].filter(Boolean).join(" ");
    if (hint) button.title = hint;
    const go = async () => {
      try {
        await run();
      } catch (error) {
        write.failed(error);
      }
    };
    button.addEventListener("click", () => void go());
    for (const key of list) app.keys.add(key, label ?? name, () => void go(), when ?? inRoom);
    (group ?? groups[3]).append(button);
    commands.set(name, { button, run: go });
    return button;
  }

  const room = layout.tools.closest("[role=tabpanel]");
  const inRoom = () => !(/** @type {HTMLElement | null} */ (room)?.hidden) && !document.querySelector("dialog[open]");

  /** Where Continue goes on: the caret, or the end. */
  function target() {
    const { head } = view.state.selection.main;
    const rest = view.state.sliceDoc(head, Math.min(view.state.doc.length, head + 2000));
    return rest.trim() === "" && head + 2000 >= view.state.doc.length ? undefined : head;
  }

  /** A single surrogate or a cut line end is no place to write on from. @param {number} head */
  function whole(head) {
    const code = view.state.sliceDoc(head, head + 1).charCodeAt(0);
    return code >= 0xdc00 && code <= 0xdfff ? head + 1 : head;
  }

  const continueButton = command("Continue", async () => {
    const place = target();
    if (place !== undefined) {
      await write.flush();
      await write.post("/api/story/continue", { at: write.fromShown(whole(place)) });
      write.status("Goes on from the caret, as a branch; what stood behind it is kept.");
    } else await write.post("/api/story/continue");
    view.focus();
  }, "Mod-Enter", { group: groups[0], primary: true, title: "The model goes on, at the caret", label: "Continue at the caret" });
  const stopButton = command("Stop", async () => {
    await jobs.stop();
    view.focus();
  }, [], { group: groups[0], primary: true, title: "Stop; what was written is kept (Esc)" });
  stopButton.hidden = true;
  app.keys.add("Escape", "Stop; what was written is kept", () => {
    if (jobs.going() === null) return false;
    void jobs.stop().catch(write.failed);
    return true;
  }, () => inRoom() && jobs.going() !== null);

  const versionButton = command("Another version", async () => {
    await write.flush();
    const { head } = view.state.selection.main;
    const here = write.passageAt(head)?.passage;
    const place = write.fromShown(head);
    const before = write.story().passages.findLast((/** @type {any} */ one) => one.by === "model" && one.from < Math.max(1, place));
    const passage = here?.by === "model" ? here : before;
    if (passage) await write.post("/api/story/version", { passage: passage.id });
    else write.status("There is no passage of the model before the caret.");
  }, "Mod-Shift-Enter", { group: groups[1], title: "Write the passage at the caret anew; this one is kept" });

  const versions = element("span", { class: "versions-at" });
  groups[1].append(versions);

  /** @param {number} step */
  async function stepVersion(step) {
    await write.flush();
    const found = write.passageAt(view.state.selection.main.head);
    if (!found || found.passage.versions < 2) {
      write.status("There is one version of this passage. Another version makes a second.");
      return;
    }
    const { passages } = normalTree(await app.api("GET", "/api/story/tree"));
    const ids = versionsOf(passages, found.passage.id);
    const at = ids.indexOf(found.passage.id);
    const next = ids[(at + step + ids.length) % ids.length];
    const target = latestUnder(passages, next);
    const [branch] = passages.find((one) => one.id === target)?.branches ?? [];
    await write.post("/api/story/goto", branch === undefined ? { passage: target } : { branch });
    const now = (at + step + ids.length) % ids.length + 1;
    write.status(`Version ${now} of ${ids.length}.`);
    view.dispatch({ selection: { anchor: Math.min(found.from + 1, view.state.doc.length) }, scrollIntoView: true });
  }

  app.keys.add("Alt-ArrowUp", "Earlier version of the passage at the caret", () => void stepVersion(-1).catch(write.failed), inRoom);
  app.keys.add("Alt-ArrowDown", "Later version of the passage at the caret", () => void stepVersion(1).catch(write.failed), inRoom);

  const showVersions = later(() => {
    const found = write.passageAt(view.state.selection.main.head);
    const passage = found?.passage;
    const many = passage && passage.versions > 1;
    const at = /** @type {any} */ (passage)?.version;
    render(many ? html`
      <button type="button" tabindex="-1" aria-label="Version before" title="Version before (Alt+↑)" @click=${() => stepVersion(-1).catch(write.failed)}>‹</button>
      <span class="figures">${at ? `${at} of ${passage.versions}` : counted(passage.versions, "version")}</span>
      <button type="button" tabindex="-1" aria-label="Next version" title="Next version (Alt+↓)" @click=${() => stepVersion(1).catch(write.failed)}>›</button>` : html``, versions);
  }, 80);
  write.onUpdate((update) => {
    if (update.selectionSet || update.docChanged || update.transactions.some((one) => one.effects.length)) showVersions();
  });

  /** @param {"undo" | "redo"} which @param {string} said */
  async function step(which, said) {
    const { done = [] } = (await write.post(`/api/story/${which}`)) ?? {};
    write.status(done.length ? `${said}: ${done.join(", ")}.` : `There is nothing to ${which}.`);
  }

  const undoButton = command("Undo", () => step("undo", "Undone"), "Mod-z",
    { group: groups[2], label: "Undo: text, generations, memory, note, lore, title" });
  const redoButton = command("Redo", () => step("redo", "Done again"), ["Mod-Shift-z", "Mod-y"], { group: groups[2] });
  command("Branch", async () => {
    const box = element("input", { "aria-label": "Name of the branch", placeholder: "a name, or nothing for a number", maxlength: "80" });
    const found = write.passageAt(view.state.selection.main.head);
    const inMiddle = target() !== undefined && found !== null;
    const choice = await ask("Begin a branch", html`<p>The story as it stands stays on its branch.</p>${box}`, [
      ...(inMiddle ? [{ label: "After the passage at the caret", value: "at" }] : []),
      { label: "Begin it here", value: "end", primary: true },
    ]);
    view.focus(); // at once, or the next key would go to the button
    if (!choice) return;
    await write.post("/api/story/branch", { name: box.value.trim() || undefined, ...(choice === "at" && found ? { at: found.passage.id } : {}) });
  }, [], { group: groups[2], title: "Try another way from here; this one is kept" });
  app.keys.add("Mod-s", "Say that the story is saved", async () => {
    await write.flush();
    write.status(`Saved: ${write.story().file ?? "the story"}.`);
  }, inRoom);

  app.keys.add("Mod-f", "Find and replace", () => {
    view.focus();
    openSearchPanel(view);
  }, inRoom);

  function showJob() {
    const going = jobs.going();
    stopButton.hidden = going === null;
    continueButton.hidden = jobs.current() !== null;
    stopButton.className = continueButton.hidden ? "primary" : "line";
    if (going && document.activeElement === continueButton) stopButton.focus();
    const buttons = [...layout.tools.querySelectorAll("button")].filter((one) => !one.hidden);
    if (!buttons.some((one) => one.tabIndex === 0)) buttons[0].tabIndex = 0;
  }
  jobs.onJob(showJob);
  showJob();

  write.onStory((story) => {
    undoButton.disabled = !story.undo;
    redoButton.disabled = !story.redo;
    undoButton.title = story.undo ? `Undo ${story.undo} (${readable("Mod-z")})` : "Nothing to undo";
    redoButton.title = story.redo ? `Redo ${story.redo} (${readable("Mod-Shift-z")})` : "Nothing to redo";
    versionButton.disabled = !story.passages.some((/** @type {any} */ one) => one.by === "model");
    layout.count.textContent = words(story);
    layout.count.classList.toggle("reached", Boolean(story.goal?.words) && story.goal.today >= story.goal.words);
    showVersions();
  });

  layout.count.addEventListener("click", async () => {
    const story = write.story();
    const box = element("input", { type: "number", min: "0", max: "100000", step: "50", "aria-label": "Words a day" });
    box.value = String(story.goal?.words ?? 0);
    const choice = await ask("Goal of the day", html`<p>Words to write each day; 0 for none. Today: ${counted(story.goal?.today ?? 0, "word")}.</p>${box}`,
      [{ label: "Set", value: "set", primary: true }]);
    view.focus();
    if (choice === "set") await write.post("/api/story/goal", { words: Number(box.value) || 0 }).catch(write.failed);
  });

  return {
    command,

    /** @param {string} name */
    run: (name) => commands.get(name)?.run(),
  };
}

/** @param {any} story */
function words(story) {
  const count = counted(story.words ?? 0, "word");
  return story.goal?.words ? `${count} · ${grouped(story.goal.today)} of ${grouped(story.goal.words)} today` : count;
}
