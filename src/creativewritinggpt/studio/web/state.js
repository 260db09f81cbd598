// The state of the page: one object, replaced piece by piece.

/** @param {Record<string, any>} initial */
export function createState(initial) {
  let value = initial;
  /** @type {Set<(value: Record<string, any>, before: Record<string, any>) => void>} */
  const listeners = new Set();
  return {
    get: () => value,
    /** @param {Record<string, any>} patch */
    set(patch) {
      const before = value;
      value = { ...value, ...patch };
      for (const listener of listeners) listener(value, before);
    },
    /** @param {(value: Record<string, any>, before: Record<string, any>) => void} listener */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
