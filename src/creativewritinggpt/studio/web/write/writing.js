// Jobs of the studio as this page sees them: what is written now, and what is said about it.
import { counted } from "../ui.js";
import { finishedSentences } from "./typed.js";

/** @typedef {{id: string, type: string, state: string, message?: string, at?: number, rows?: any[], order?: number[], learnt?: string}} Job */

const TEXT = ["continue", "version"];
const GOING = ["queued", "running"];

/**
 * @param {import("./room.js").Write} write
 * @param {{begin: () => void, end: () => void, say: (sentence: string) => void}} host
 */
export function createWriting(write, host) {
  /** @type {Map<string, Job>} */
  const jobs = new Map();
  /** @type {((job: Job) => void)[]} */
  const jobListeners = [];
  /** @type {((piece: any) => void)[]} */
  const pieceListeners = [];
  let heard = "";
  let written = "";

  /** The job that writes into the text, if one does. @returns {Job | null} */
  function current() {
    for (const job of jobs.values()) {
      if (TEXT.includes(job.type) && GOING.includes(job.state)) return job;
    }
    return null;
  }

  /** The job that Stop would stop. @returns {Job | null} */
  function going() {
    return current() ?? [...jobs.values()].reverse().find((job) => GOING.includes(job.state)) ?? null;
  }

  /** @param {Job} job @param {Job | undefined} before */
  function tell(job, before) {
    if (!TEXT.includes(job.type)) return;
    if (job.state === "queued") write.status(job.message || "Waiting for the model …");
    else if (job.state === "running" && before?.state !== "running") {
      heard = "";
      written = "";
      host.begin();
      write.status("Writing …");
    } else if (!GOING.includes(job.state)) {
      host.end();
      if (spoken() && heard.trim()) host.say(heard.trim());
      const words = counted(written.split(/\s+/).filter(Boolean).length, "word");
      if (job.state === "done") write.status(`Done: ${words}.`);
      else if (job.state === "stopped") write.status(`Stopped; ${words} kept.`);
      else write.status(job.message || "The model could not write.", "error");
    }
  }

  const spoken = () => localStorage.getItem("write.spoken") === "sentences";

  return {
    current,
    going,

    /** @param {Job[]} list */
    reset(list) {
      jobs.clear();
      for (const job of list) jobs.set(job.id, job);
      if (current()) {
        host.begin();
        write.status(current()?.state === "queued" ? "Waiting for the model …" : "Writing …");
      } else host.end();
      for (const job of list) jobListeners.forEach((listener) => listener(job));
    },

    /** @param {any} event */
    take(event) {
      const before = jobs.get(event.id);
      const job = { ...before, ...event };
      jobs.delete(job.id);
      jobs.set(job.id, job);
      tell(job, before);
      for (const one of jobs.values()) {
        if (jobs.size <= 50) break;
        if (!GOING.includes(one.state)) jobs.delete(one.id);
      }
      jobListeners.forEach((listener) => listener(job));
    },

    /** @param {any} piece */
    piece(piece) {
      const job = jobs.get(piece.job);
      if (!job || (TEXT.includes(job.type) && piece.row === 0)) {
        written += piece.text;
        if (spoken()) {
          const { sentences, rest } = finishedSentences(heard + piece.text);
          heard = rest;
          sentences.forEach(host.say);
        }
      }
      pieceListeners.forEach((listener) => listener(piece));
    },

    /** @param {string} id */
    writesText(id) {
      return TEXT.includes(jobs.get(id)?.type ?? "continue");
    },

    /** @param {(job: Job) => void} listener */
    onJob: (listener) => void jobListeners.push(listener),

    /** @param {(piece: any) => void} listener */
    onPiece: (listener) => void pieceListeners.push(listener),

    async stop() {
      const job = going();
      if (!job) return false;
      await write.app.api("DELETE", `/api/jobs/${encodeURIComponent(job.id)}`);
      return true;
    },
  };
}
