// A question to the studio: its answer comes as events of a job, perhaps before the job's id is known.

/**
 * @param {any} app
 * @param {string} kind of the events that carry the answer
 * @param {(event: any) => void} take an event of the answer
 * @param {(event: any) => void} changed the state of the job
 */
export function createQuestion(app, kind, take, changed) {
  let job = "";
  let asking = 0; // number of the last question whose job is not known yet
  let asked = 0;
  /** @type {any[]} */
  let early = [];

  /** @param {any} event */
  function deliver(event) {
    const id = event.kind === "job" ? event.id : event.job;
    if (asking) early.push(event);
    else if (job && id === job) (event.kind === "job" ? changed : take)(event);
  }
  app.events.on(kind, deliver);
  app.events.on("job", deliver);

  return {
    /** The id of the job that answers; empty where none does. */
    job: () => job,

    /**
     * Ask anew; what the question before still says is not heard.
     * @param {() => Promise<any>} send
     * @returns {Promise<any>} the answer to the request, null where another question came first
     */
    async ask(send) {
      const number = ++asked;
      asking = number;
      job = "";
      early = [];
      try {
        const answer = await send();
        if (number !== asked) return null;
        job = answer.job;
        return answer;
      } finally {
        if (number === asked) {
          asking = 0;
          const waiting = early;
          early = [];
          queueMicrotask(() => waiting.forEach(deliver)); // after who awaits the answer
        }
      }
    },

    /** Hear no more of it. */
    forget() {
      asked++;
      asking = 0;
      job = "";
      early = [];
    },
  };
}
