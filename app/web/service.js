// The REST service, as this page asks it.

let key = "";

/** Send this API key from now on. */
export function useKey(value) {
  key = value;
}

export function hasKey() {
  return key !== "";
}

/** The address of an endpoint, wherever the page is served. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/** A request that was not answered as it was meant: by the service (RFC 9457), or by nobody. */
export class Problem extends Error {
  /**
   * @param kind what the service calls it, or one of `unreachable`, `connection-lost`, `cancelled`,
   *   `unreadable-file`, `status-NNN`
   * @param limit {name, max, actual} that was hit
   * @param retryAfter seconds after which another try makes sense
   */
  constructor(kind, { status = 0, detail = "", limit = null, retryAfter = null, requestId = "" } = {}) {
    super(detail || kind);
    Object.assign(this, { kind, status, detail, limit, retryAfter, requestId });
  }
}

/**
 * Restore a photograph.
 *
 * @param onSent called with the share of the upload that has been sent, 0 to 1
 * @returns {blob, type, prompt, model, timings, scores}; timings in milliseconds, `scores` null where the prompt was given
 */
export async function derain(file, { prompt, model, format, signal, onSent }) {
  const form = new FormData();
  form.append("image", file, file.name);
  if (prompt) form.append("prompt", prompt);
  if (model) form.append("model", model);
  if (format) form.append("format", format);
  const answer = await post("derain", form, { accept: "image/*", signal, onSent });
  return {
    blob: answer.blob,
    type: answer.blob.type,
    prompt: decodeURIComponent(answer.header("X-Derain-Prompt") ?? ""),
    model: answer.header("X-Derain-Model") ?? "",
    timings: serverTiming(answer.header("Server-Timing") ?? ""),
    scores: JSON.parse(answer.header("X-Derain-Perception")),
  };
}

/** What the service sees in a photograph: {prompt, types, densities, directions}, each with probabilities. */
export async function perceive(file, { signal } = {}) {
  const form = new FormData();
  form.append("image", file, file.name);
  const answer = await post("perceive", form, { accept: "application/json", signal });
  return JSON.parse(await answer.blob.text());
}

/** The networks to choose from, as GET /models tells them: [{name, default, ...}]. */
export async function models() {
  const response = await got("models");
  if (!response.ok) throw await problemOf(response.status, await response.blob(), (name) => response.headers.get(name));
  return (await response.json()).models;
}

function got(path) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  return fetch(address(path), { headers, cache: "no-store" });
}

function serverTiming(header) {
  return Object.fromEntries(
    [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, stage, duration]) => [stage, Number(duration)]),
  );
}

// fetch tells nothing about the progress of an upload
function post(path, form, { accept, signal, onSent }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    request.responseType = "blob";
    request.setRequestHeader("Accept", accept);
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.upload.onprogress = ({ loaded, total }) => onSent?.(total ? loaded / total : 0);
    request.upload.onload = () => onSent?.(1);
    request.onload = async () => {
      if (request.status < 400) {
        resolve({ blob: request.response, header: (name) => request.getResponseHeader(name) });
      } else {
        const header = (name) => request.getResponseHeader(name);
        reject(await problemOf(request.status, request.response, header));
      }
    };
    request.onerror = async () => reject(await unanswered(form.get("image")));
    request.onabort = () => reject(new Problem("cancelled"));
    signal?.addEventListener("abort", () => request.abort());
    if (signal?.aborted) reject(new Problem("cancelled"));
    else request.send(form);
  });
}

async function problemOf(status, body, header) {
  const retryAfter = Number.parseInt(header("Retry-After") ?? "", 10);
  const common = { status, retryAfter: Number.isNaN(retryAfter) ? null : retryAfter };
  common.requestId = header("X-Request-ID") ?? "";
  try {
    const details = JSON.parse(await body.text());
    const kind = details.type.replace("urn:derain:problem:", "");
    return new Problem(kind, { ...common, detail: details.detail, limit: details.limit ?? null });
  } catch {
    return new Problem(`status-${status}`, common); // something in front of the service answered
  }
}

/**
 * Why a request has no answer. A service that refuses an upload before its end may close the connection
 * under it, so it is asked once more, without the upload.
 */
async function unanswered(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return new Problem("unreadable-file");
  }
  try {
    const response = await got("models");
    if (response.ok) return new Problem("connection-lost");
    return await problemOf(response.status, await response.blob(), (name) => response.headers.get(name));
  } catch {
    return new Problem("unreachable");
  }
}
