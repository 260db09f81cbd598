// The frame of the Write room, built once.
import { element } from "../ui.js";

/** @param {HTMLElement} room */
export function buildLayout(room) {
  const title = element("input", { class: "title", "aria-label": "Title", placeholder: "Untitled", maxlength: "200", spellcheck: "true" });
  const row = element("nav", { class: "panels", "aria-label": "Panels" });
  const notice = element("div", { class: "notice-line", role: "note" });
  notice.hidden = true;
  const page = element("div", { class: "page", "data-pane": "Text" });
  const begin = element("button", { type: "button", class: "plain" }, "bring one from the Library");
  const invite = element("div", { class: "invite" }, element("p", {}, element("span", {}, "Or ", begin, ": text, Markdown, Word, EPUB, KoboldAI, mikupad.")));
  invite.hidden = true;
  page.append(invite);
  const side = element("aside", { class: "side", "aria-label": "Side panel" });
  side.hidden = true;
  const sheetBox = element("section", { class: "sheet", "data-pane": "Sheet" });
  sheetBox.hidden = true;
  const tools = element("div", { class: "write-tools", role: "toolbar", "aria-label": "Writing", "data-pane": "Commands" });
  const count = element("button", { type: "button", class: "count figures", title: "Words, and the goal of the day" });
  const foot = element("div", { class: "write-foot" }, tools, count);
  const spoken = element("div", { class: "spoken", role: "log", "aria-label": "Finished sentences", "aria-live": "polite" });
  room.classList.add("write");
  room.replaceChildren(element("header", { class: "write-top" }, title, row), notice,
    element("div", { class: "write-main" }, page, side), sheetBox, foot, spoken);

  return {
    title,
    row,
    page,
    side,
    tools,
    count,
    begin,

    /** Invite to begin an empty story. @param {boolean} on */
    invite(on) {
      if (invite.hidden === on) invite.hidden = !on;
    },

    /** @param {string | null} text @param {{label: string, run: () => void} | null} [action] */
    notice(text, action = null) {
      notice.hidden = !text;
      if (!text) {
        notice.replaceChildren();
        return;
      }
      notice.replaceChildren(element("span", {}, text));
      if (action) {
        const button = element("button", { type: "button", class: "line" }, action.label);
        button.addEventListener("click", action.run);
        notice.append(button);
      }
    },

    /** A sentence for those who hear the page. @param {string} text */
    say(text) {
      spoken.append(element("p", {}, text));
      while (spoken.childNodes.length > 20) spoken.firstChild?.remove();
    },

    /** Whether something typed is not at the studio yet. @param {boolean} on */
    unsent(on) {
      count.classList.toggle("unsent", on);
    },

    /** @param {() => void} leave gives the focus back to the text */
    sheet(leave) {
      const hide = () => {
        if (sheetBox.hidden) return;
        sheetBox.hidden = true;
        sheetBox.replaceChildren();
        leave();
      };
      sheetBox.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && !event.defaultPrevented) {
          event.preventDefault();
          hide();
        }
      });
      return {
        /** @param {HTMLElement} content @param {string} name */
        show(content, name) {
          const close = element("button", { type: "button", class: "close", "aria-label": `Close ${name}`, title: "Close (Esc)" }, "×");
          close.addEventListener("click", hide);
          sheetBox.setAttribute("aria-label", name);
          sheetBox.replaceChildren(element("header", {}, element("h2", {}, name), close), content);
          sheetBox.hidden = false;
        },
        hide,
      };
    },
  };
}
