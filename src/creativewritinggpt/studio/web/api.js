// Requests to the studio: JSON in, JSON out, errors as exceptions with a sentence.

/** An answer that is an error, or no answer at all (status 0). */
export class ApiError extends Error {
  /**
   * @param {string} message one sentence
   * @param {string | null} advice what can be done
   * @param {string} kind
   * @param {number} status
   * @param {any} body the whole answer
   */
  constructor(message, advice, kind, status, body) {
    super(message);
    this.advice = advice;
    this.kind = kind;
    this.status = status;
    this.body = body;
  }
}

/**
 * @param {"GET" | "POST" | "PUT" | "PATCH" | "DELETE"} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<any>} the answer
 * @throws {ApiError}
 */
export async function api(method, path, body) {
  const binary = body instanceof Blob || body instanceof ArrayBuffer;
  /** @type {RequestInit} */
  const options = { method, credentials: "same-origin" };
  if (body !== undefined) {
    options.headers = { "content-type": binary ? "application/octet-stream" : "application/json" };
    options.body = binary ? body : JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new ApiError("the studio does not answer", "is cwgpt studio still running?", "offline", 0, null);
  }
  const type = answer.headers.get("content-type") ?? "";
  const value = type.startsWith("application/json") ? await answer.json() : await answer.text();
  if (!answer.ok) {
    const error = value?.error ?? {};
    throw new ApiError(error.message ?? `the studio answered ${answer.status}`, error.advice ?? null,
      error.kind ?? "", answer.status, value);
  }
  return value;
}
