// The runs of the studio as the page knows them: one store for Train, Judge and Explain.

/**
 * @typedef {object} Run
 * @property {string} id
 * @property {string} kind
 * @property {string} name
 * @property {"running" | "stopping" | "done" | "stopped" | "failed" | "aside"} state
 * @property {string} message
 * @property {string | null} advice
 * @property {number} created seconds since the epoch
 * @property {number} seconds
 * @property {string} [doing] the last line of its log
 * @property {string | null} [phase] what it does before its first figures
 * @property {number} [since] when it was started, by this page's clock, in milliseconds
 * @property {Record<string, any>} about
 * @property {boolean} passing
 * @property {number} [step]
 * @property {number | null} [total_steps]
 * @property {number | null} [loss]
 * @property {{step: number, loss: number} | null} [best]
 * @property {number | null} [base]
 * @property {number} [validations]
 * @property {number} [samples]
 * @property {string} [sentence]
 * @property {number | null} [left] seconds
 * @property {string | null} [model] its id
 * @property {boolean} [resumable]
 */

/** @type {WeakMap<object, RunStore>} */
const stores = new WeakMap();

export class RunStore {
  /** @param {any} app */
  constructor(app) {
    this.app = app;
    /** @type {Map<string, Run>} */
    this.runs = new Map();
    /** @type {Set<(run: Run | null) => void>} */
    this.listeners = new Set();
    this.ready = this.refresh();
    app.events.on("run", (/** @type {{run: Run}} */ event) => this.take(event.run));
    app.events.on("hello", (/** @type {{reset: boolean}} */ hello) => {
      if (hello.reset) void this.refresh();
    });
  }

  async refresh() {
    const found = await this.app.api("GET", "/api/runs");
    for (const run of this.runs.values()) if (!run.passing) this.runs.delete(run.id);
    for (const run of found.runs) this.runs.set(run.id, timed(run));
    this.tell(null);
  }

  /** @param {Run} run */
  take(run) {
    if (run.state === "aside") this.runs.delete(run.id);
    else this.runs.set(run.id, timed(run));
    this.tell(run);
  }

  /** @param {Run | null} run the one that changed; null for all */
  tell(run) {
    for (const listener of this.listeners) listener(run);
  }

  /** @param {(run: Run | null) => void} listener @returns {() => void} stops it */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** @param {string} kind @returns {Run[]} newest first */
  of(kind) {
    return [...this.runs.values()].filter((run) => run.kind === kind).sort((a, b) => b.created - a.created);
  }

  /** @param {string} id */
  get(id) {
    return this.runs.get(id) ?? null;
  }

  /**
   * Start something and remember its run.
   * @param {string} path @param {Record<string, any>} body @returns {Promise<Run>}
   */
  async start(path, body) {
    const { run } = await this.app.api("POST", path, body);
    // An event may have come first, and may be newer.
    if (!this.runs.has(run.id) || this.runs.get(run.id)?.state !== run.state) this.take(run);
    return run;
  }
}

/** With the moment of its start: events don't come every second. @param {Run} run */
function timed(run) {
  run.since = Date.now() - run.seconds * 1000;
  return run;
}

/** @param {Run} run @returns {number} seconds that it has run, now */
export function ranFor(run) {
  return isGoing(run) && run.since ? (Date.now() - run.since) / 1000 : run.seconds;
}

/** The store of this page. @param {any} app @returns {RunStore} */
export function runsOf(app) {
  let store = stores.get(app);
  if (!store) {
    store = new RunStore(app);
    stores.set(app, store);
  }
  return store;
}

/** @param {Run} run */
export function isGoing(run) {
  return run.state === "running" || run.state === "stopping";
}

/** @param {number | null | undefined} seconds @returns {string} `48 s`, `3 min 20 s`, `2 h 05 min` */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

/** @param {number} bytes */
export function size(bytes) {
  for (const unit of ["bytes", "kB", "MB"]) {
    if (bytes < 1000) return `${Math.round(bytes)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} GB`;
}

/** @param {Run} run @returns {string} its state in words */
export function stateOf(run) {
  if (run.state === "running") {
    if (run.phase && run.kind === "train") return `${run.phase} …`;
    const steps = run.total_steps ? ` · step ${run.step} of ${run.total_steps}` : "";
    const left = run.left ? ` · about ${duration(run.left)} left` : "";
    return `running${steps}${left}`;
  }
  if (run.state === "stopping") return "stopping: the step is finished and all is saved";
  if (run.state === "failed") return "failed";
  const when = new Date(run.created * 1000).toLocaleDateString("en", { month: "short", day: "numeric" });
  return `${run.state} · ${when} · ${duration(run.seconds)}`;
}
