// The numbered events of the studio over one WebSocket, resumed where they were lost.

/** Emits every event by its kind; also `hello`, and `connection` `{connected, status}`. */
export class Events {
  /** @param {string} tab id of this tab */
  constructor(tab) {
    this.tab = tab;
    this.connected = false;
    this.epoch = "";
    this.n = 0;
    this.wanted = false;
    this.delay = 250;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {Map<string, Set<(event: any) => void>>} */
    this.listeners = new Map();
  }

  /**
   * @param {string} kind
   * @param {(event: any) => void} listener
   * @returns {() => void} stops it
   */
  on(kind, listener) {
    const set = this.listeners.get(kind) ?? new Set();
    this.listeners.set(kind, set);
    set.add(listener);
    return () => set.delete(listener);
  }

  /** @param {string} kind @param {any} event */
  emit(kind, event) {
    for (const listener of this.listeners.get(kind) ?? []) listener(event);
  }

  start() {
    this.wanted = true;
    this.open();
  }

  stop() {
    this.wanted = false;
    this.socket?.close();
  }

  open() {
    const query = new URLSearchParams({ since: String(this.n), epoch: this.epoch, tab: this.tab });
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/events?${query}`);
    this.socket = socket;
    socket.onmessage = (message) => this.take(JSON.parse(message.data));
    socket.onclose = () => {
      if (this.connected || this.delay === 250) this.emit("connection", { connected: false });
      this.connected = false;
      if (!this.wanted) return;
      setTimeout(() => this.open(), this.delay);
      this.delay = Math.min(this.delay * 2, 4000);
    };
  }

  /** @param {any} message hello, or a list of events */
  take(message) {
    if (!Array.isArray(message)) {
      this.epoch = message.epoch;
      if (message.reset) this.n = message.n;
      this.connected = true;
      this.delay = 250;
      this.emit("connection", { connected: true });
      this.emit("hello", message);
      return;
    }
    for (const event of message) {
      if (event.n <= this.n) continue;
      this.n = event.n;
      this.emit(event.kind, event);
    }
  }
}
