// Title and chapters: a list to jump by, and a way to begin one.
import { counted, element } from "../ui.js";
import { EditorView } from "/vendor/codemirror.js";
import { html, render } from "/vendor/lit-html.js";

/**
 * @param {import("./room.js").Write} write
 * @param {ReturnType<typeof import("./layout.js").buildLayout>} layout
 */
export function addChapters(write, layout) {
  const box = element("div");
  const panel = write.panel("chapters", "Chapters", box);
  let shown = "";

  layout.title.addEventListener("change", () => {
    void write.post("/api/story/set", { title: layout.title.value.trim() }).catch(write.failed);
  });
  layout.title.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" && event.key !== "Enter") return;
    event.preventDefault(); // else the key would go on to the text
    if (event.key === "Escape") layout.title.value = write.story().title ?? "";
    write.focus();
  });

  /** @param {number} from */
  function jump(from) {
    const place = Math.min(write.toShown(from, 1), write.view.state.doc.length);
    // Over the empty line and the heading, into the chapter.
    write.view.dispatch({ selection: { anchor: place }, effects: [] });
    write.view.dispatch({ effects: scrollTo(place) });
    write.focus();
  }

  const scrollTo = (/** @type {number} */ place) =>
    EditorView.scrollIntoView(place, { y: "start", yMargin: 48 });

  /** @param {SubmitEvent} event */
  async function begin(event) {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const field = /** @type {HTMLInputElement} */ (form.elements.namedItem("title"));
    if (!field.value.trim()) return;
    try {
      await write.post("/api/story/chapter", { title: field.value.trim() });
      field.value = "";
      write.view.dispatch({ selection: { anchor: write.view.state.doc.length }, scrollIntoView: true });
      write.focus();
    } catch (error) {
      write.failed(error);
    }
  }

  function show() {
    const { chapters = [], words } = write.story();
    const here = write.fromShown(write.view.state.selection.main.head);
    const current = chapters.findLastIndex((/** @type {any} */ one) => one.from <= here);
    render(html`
      ${chapters.length ? html`<ol class="chapters">${chapters.map((/** @type {any} */ chapter, /** @type {number} */ at) => html`
        <li><button type="button" aria-current=${at === current ? "location" : "false"} @click=${() => jump(chapter.from)}>
          <span>${chapter.title || "Before the first chapter"}</span>
          <span class="quiet small figures">${counted(chapter.words, "word")}</span></button></li>`)}</ol>`
        : html`<p class="quiet">${words ? "The story has no chapters yet." : "An empty story."}</p>`}
      <form class="row begin" @submit=${begin}>
        <input name="title" aria-label="Title of the new chapter" placeholder="New chapter" autocomplete="off">
        <button type="submit" class="line">Begin chapter</button>
      </form>`, box);
  }

  panel.onToggle((open) => open && show());
  write.onStory((story) => {
    if (document.activeElement !== layout.title) layout.title.value = story.title ?? "";
    document.title = `${story.title || story.file || "Story"} – Studio`;
    const now = JSON.stringify(story.chapters);
    if (panel.isOpen() && now !== shown) show();
    shown = now;
  });
}
