// The frame of the page: login, rooms, status line, keys, theme; what all rooms share.
import { api, ApiError } from "./api.js";
import { Events } from "./events.js";
import { createKeys } from "./keys.js";
import { createState } from "./state.js";
import { setUpTheme } from "./theme.js";

/**
 * What every room gets.
 * @typedef {object} App
 * @property {typeof api} api
 * @property {Events} events
 * @property {ReturnType<typeof createState>} state
 * @property {string} tab id of this browser tab
 * @property {Record<string, any>} rooms rooms that were mounted, by name
 * @property {(text: string, level?: string, advice?: string | null) => void} status
 * @property {(name: string) => Promise<any>} show
 * @property {ReturnType<typeof createKeys>} keys
 */

const ROOMS = ["write", "train", "judge", "explain", "library"];
const TITLE = "Studio";

/** @param {string} id @returns {HTMLElement} */
function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found;
}

/** The id of this tab, kept over a reload. */
function tabId() {
  let id = sessionStorage.getItem("tab");
  if (!id || !/^[0-9a-f]{16}$/.test(id)) {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  // A duplicated tab copies the storage: it is only kept when this page is left.
  sessionStorage.removeItem("tab");
  const kept = id;
  addEventListener("pagehide", () => sessionStorage.setItem("tab", kept));
  return kept;
}

/** Trade the secret of the address for the cookie. */
async function logIn() {
  const secret = new URLSearchParams(location.hash.slice(1)).get("t");
  if (!secret) return;
  // Taken out of the address at once, before anything can go wrong.
  history.replaceState(null, "", location.pathname + location.search);
  await api("POST", "/api/login", { secret });
}

/** @param {string} text @param {boolean} ask for the key */
function gate(text, ask) {
  byId("gate").hidden = false;
  byId("studio").hidden = true;
  byId("gate-text").textContent = text;
  byId("gate-login").hidden = !ask;
}

/** @param {string} text @param {string} [level] @param {string | null} [advice] */
function status(text, level = "info", advice = null) {
  const line = byId("status");
  const message = advice ? `${text}: ${advice}` : text;
  line.dataset.level = level;
  if (line.textContent !== message) line.textContent = message;
}

/** @param {unknown} error */
function report(error) {
  if (error instanceof ApiError) {
    if (error.status === 401) {
      gate("The studio was started anew. Open the address that cwgpt studio printed last, " +
        "or give the key at its end.", true);
      return;
    }
    status(error.message, "error", error.advice);
    return;
  }
  status("Something went wrong in this page; reload it. The story is saved.", "error");
  console.error(error);
}

/** @returns {App} */
function createApp() {
  const tab = tabId();
  /** @type {Record<string, any>} */
  const rooms = {};
  let current = "write";
  /** @type {Record<string, Promise<any>>} */
  const mounting = {};

  /** @param {string} name */
  function mount(name) {
    mounting[name] ??= (async () => {
      const module = await import(`./${name}/room.js`);
      rooms[name] = await module.mount(byId(`room-${name}`), app);
      return rooms[name];
    })();
    return mounting[name];
  }

  /** @param {string} name */
  async function show(name) {
    if (!ROOMS.includes(name)) throw new Error(`no room ${name}`);
    const before = current;
    current = name;
    for (const one of ROOMS) {
      const chosen = one === name;
      const button = byId(`tab-${one}`);
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      byId(`room-${one}`).hidden = !chosen;
    }
    document.title = name === "write" ? TITLE : `${byId(`tab-${name}`).textContent} – ${TITLE}`;
    sessionStorage.setItem("room", name);
    if (before !== name) rooms[before]?.hide?.();
    const room = await mount(name);
    if (current === name) room?.show?.();
    return room;
  }

  /** @type {App} */
  const app = {
    api,
    events: new Events(tab),
    state: createState({}),
    tab,
    rooms,
    status,
    show,
    keys: createKeys(),
  };
  return app;
}

/** @param {App} app */
function setUpTabs(app) {
  const tabs = byId("tabs");
  tabs.addEventListener("click", (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest("[role=tab]");
    if (button) app.show(button.id.slice(4)).catch(report);
  });
  tabs.addEventListener("keydown", (event) => {
    const place = ROOMS.findIndex((name) => byId(`tab-${name}`) === document.activeElement);
    if (place < 0) return;
    const last = ROOMS.length - 1;
    const next = {
      ArrowRight: place === last ? 0 : place + 1,
      ArrowLeft: place === 0 ? last : place - 1,
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    byId(`tab-${ROOMS[next]}`).focus();
    app.show(ROOMS[next]).catch(report);
  });
}

/** @param {App} app */
function setUpStatus(app) {
  app.events.on("note", (/** @type {any} */ event) => {
    status(event.text, event.level ?? "info", event.advice ?? null);
  });
  app.events.on("connection", (/** @type {any} */ event) => {
    byId("connection").textContent = event.connected
      ? ""
      : "No connection to the studio. Is cwgpt studio still running? Trying again …";
    if (event.status === 401) report(new ApiError("", null, "login", 401, {}));
  });
}

async function start() {
  await logIn();
  const state = await api("GET", "/api/state");
  const app = createApp();
  app.state.set(state);
  app.events.epoch = state.epoch;
  app.events.n = state.n;
  Object.assign(globalThis, { studio: app }); // for tests, and for the curious
  setUpTheme(byId("theme"));
  app.keys.setUpDialog(byId("keys"), byId("keys-list"), byId("keys-button"), byId("keys-close"));
  app.keys.add("F6", "Next pane", () => nextPane(1));
  app.keys.add("Shift-F6", "Pane before", () => nextPane(-1));
  setUpTabs(app);
  setUpStatus(app);
  byId("gate").hidden = true;
  byId("studio").hidden = false;
  const room = sessionStorage.getItem("room") ?? "write";
  // The socket says that the page takes keys: the studio then begins to load the model.
  await app.show(ROOMS.includes(room) ? room : "write").finally(() => app.events.start());
}

/** Move the focus to the next of: tabs, panes of the room (`[data-pane]`), tools. @param {number} by */
function nextPane(by) {
  const shown = (/** @type {Element} */ one) => one.getClientRects().length > 0;
  const panes = [byId("tabs"), ...document.querySelectorAll("#rooms [data-pane]"), byId("tools")];
  const list = panes.filter(shown);
  const at = list.findIndex((pane) => pane.contains(document.activeElement));
  const next = list[(at + by + list.length) % list.length];
  const wanted =
    next.querySelector("[aria-selected=true], [role=textbox]") ??
    next.querySelector("button:not([disabled]), input, select, textarea, [tabindex='0'], a[href]") ??
    next;
  /** @type {HTMLElement} */ (wanted).focus();
}

addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof ApiError) {
    event.preventDefault();
    report(event.reason);
  }
});
byId("gate-open").addEventListener("click", () => {
  const given = /** @type {HTMLInputElement} */ (byId("gate-key")).value.trim();
  location.hash = `t=${given.replace(/^.*#t=/, "")}`;
  location.reload();
});
if (document.documentElement.dataset.state !== "too-old") {
  start().catch((error) => {
    if (error instanceof ApiError && error.status !== 401) {
      gate([error.message, error.advice].filter(Boolean).join(": "), false);
    } else report(error);
  });
}
