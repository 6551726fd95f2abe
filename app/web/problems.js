// Problems in the words of the page.

const number = new Intl.NumberFormat("en");

const AGAIN = { action: "retry" };

/** By kind: what went wrong and what to do about it; `action` is `retry`, `key` or none. */
const WORDS = {
  unreachable: () => ({
    title: "The service cannot be reached",
    text: navigator.onLine
      ? "It may have been stopped, or the network between here and there is down."
      : "This device is offline.",
    ...AGAIN,
  }),
  "connection-lost": () => ({
    title: "The connection broke",
    text: "The service runs, but the photograph did not get through, or its answer did not come back.",
    ...AGAIN,
  }),
  cancelled: () => ({ title: "Cancelled", text: "Nothing was restored.", ...AGAIN }),
  "unreadable-file": () => ({
    title: "The file cannot be read",
    text: "It may have been moved, changed or deleted since it was chosen, or it is a folder.",
  }),
  "unsupported-image-format": () => ({
    title: "This is not a photograph that can be read",
    text: "JPEG, PNG, WebP, TIFF, BMP and AVIF are taken, and HEIC where the service was set up for it.",
  }),
  "animated-image": () => ({
    title: "This file holds more than one picture",
    text: "Animations and files of several pages are not taken. Save the one picture by itself.",
  }),
  "image-too-large": ({ limit }) => ({
    title: "This photograph is too large",
    text: tooLarge(limit),
  }),
  "request-too-large": ({ limit }) => ({
    title: "This photograph is too large",
    text: tooLarge(limit),
  }),
  "body-too-large": ({ limit }) => ({ title: "This file is too large", text: tooLarge(limit) }),
  "undecodable-image": () => ({
    title: "This file is damaged",
    text: "It begins like a photograph, but it cannot be read to its end.",
  }),
  "unencodable-image": () => ({
    title: "It does not fit into that format",
    text: "The photograph is larger than the chosen format can hold. Choose another one, PNG for example.",
    ...AGAIN,
  }),
  "bad-field": ({ detail }) => ({
    title: "The service does not understand what was asked",
    text: `${detail}.`,
  }),
  unauthorized: (_problem, { hasKey }) => ({
    title: hasKey ? "This key is not known" : "This service asks for a key",
    text: hasKey
      ? "It may be mistyped, or it has expired."
      : "Whoever runs it hands keys out. With one, the photograph goes on from here.",
    action: "key",
  }),
  "too-many-requests": ({ limit }) => ({
    title: "This key has been used up for now",
    text:
      limit?.name === "concurrent_requests"
        ? `It allows ${number.format(limit.max)} at once.`
        : `It allows ${number.format(limit?.max ?? 0)} requests a minute.`,
    ...AGAIN,
  }),
  overloaded: () => ({
    title: "The service is busy",
    text: "It has more photographs to restore than it can answer for in time.",
    ...AGAIN,
  }),
  draining: () => ({
    title: "The service is shutting down",
    text: "It takes nothing new on. Another one may take its place.",
    ...AGAIN,
  }),
  "deadline-passed": () => ({
    title: "It took too long",
    text: "The service gave the photograph up when its time had passed.",
    ...AGAIN,
  }),
  "body-too-slow": ({ limit }) => ({
    title: "The upload was too slow",
    text: limit
      ? `The service waited for ${number.format(limit.max)} seconds, then it gave the photograph up.`
      : "The service gave the photograph up.",
    ...AGAIN,
  }),
  "unknown-host": () => ({
    title: "The service does not answer under this address",
    text: "Open this page under the name that the service was set up for.",
  }),
  "restoration-failed": () => ({
    title: "The photograph could not be restored",
    text: "The fault is with the service, not with the photograph. Its log tells more.",
    ...AGAIN,
  }),
  "internal-error": () => ({
    title: "The service failed",
    text: "The fault is with the service. Its log tells more.",
    ...AGAIN,
  }),
  // servers in front of the service, which know nothing of its problems
  "status-413": () => ({
    title: "This file is too large",
    text: "A server in front of the service refused it, without saying how much it takes.",
  }),
  "status-429": () => ({ title: "Too many requests", text: "A server in front of the service refused it.", ...AGAIN }),
  "status-502": () => WORDS.unreachable(),
  "status-503": () => WORDS.unreachable(),
  "status-504": () => WORDS["deadline-passed"](),
};

function tooLarge(limit) {
  const { max, actual } = limit ?? {};
  const units = {
    image_pixels: [(count) => `${number.format(Math.round(count / 1e5) / 10)} megapixels`, "it has"],
    image_side: [(count) => `a side of ${number.format(count)} pixels`, "it has"],
    image_bytes: [bytes, "it has"],
    body_bytes: [bytes, "it has"],
    inflight_bytes: [(count) => `${bytes(count)} of memory`, "it needs"],
  };
  if (!(limit?.name in units)) return "It is over what the service takes.";
  const [write, verb] = units[limit.name];
  return `At most ${write(max)} can be taken on${actual ? `; ${verb} ${write(actual)}` : ""}.`;
}

/** 1500000 as `1.5 MB`. */
export function bytes(count) {
  if (count < 1e6) return `${number.format(Math.max(1, Math.round(count / 1e3)))} kB`;
  return `${number.format(Math.round(count / 1e5) / 10)} MB`;
}

/** {title, text, action} of a Problem. */
export function words(problem, state) {
  const found = WORDS[problem.kind]?.(problem, state);
  return found ?? { title: "The service refused this", text: problem.detail || `It answered ${problem.status}.` };
}
