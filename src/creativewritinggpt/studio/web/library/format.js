// Times and sizes in words.

/** @param {number} bytes @returns {string} in units of 1,000 */
export function size(bytes) {
  let value = bytes;
  for (const unit of ["bytes", "kB", "MB"]) {
    if (value < 1000) return `${Math.round(value)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} GB`;
}

/**
 * A day near to today by its name, else its date.
 * @param {number} seconds since the epoch
 * @param {Date} [now]
 */
export function day(seconds, now = new Date()) {
  const time = new Date(seconds * 1000);
  if (Number.isNaN(time.getTime())) return "";
  const start = (/** @type {Date} */ one) => new Date(one.getFullYear(), one.getMonth(), one.getDate()).getTime();
  const days = Math.round((start(now) - start(time)) / 86_400_000);
  const clock = `${time.getHours()}:${String(time.getMinutes()).padStart(2, "0")}`;
  if (days === 0) return `today ${clock}`;
  if (days === 1) return `yesterday ${clock}`;
  if (days > 1 && days < 7) return `${time.toLocaleDateString("en", { weekday: "long" })} ${clock}`;
  return time.toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });
}
