// What there is to know about a result: what was seen and how surely, where the time went, the command.

import { command } from "./curl.js";
import { FORMATS, formatOf } from "./pictures.js";
import { bytes, words } from "./problems.js";
import { hasKey } from "./service.js";

const get = (id) => document.getElementById(id);

const STAGES = [
  ["receive", "Upload"],
  ["decode", "Decode and look"],
  ["queue", "Queue"],
  ["inference", "Network"],
  ["encode", "Encode"],
];

const GROUPS = [
  ["types", "What it is"],
  ["densities", "How much"],
  ["directions", "Which way"],
];

const NAMES = { left: "to the left", right: "to the right", vertical: "straight down" };

export class Panel {
  #perception = null;

  constructor(session, { announce }) {
    this.session = session;
    get("perceive").addEventListener("click", () => session.perceive(session.current));
    get("copy").addEventListener("click", async () => {
      await copy(get("curl"));
      announce("Copied");
      get("copy").textContent = "Copied";
      setTimeout(() => (get("copy").textContent = "Copy"), 2000);
    });
  }

  /** Show what there is about the session's current job, of this size in pixels. */
  render(size) {
    const job = this.session.current;
    get("panel").hidden = false;
    get("findings").hidden = job.state !== "done";
    get("name").textContent = job.name;
    get("facts").replaceChildren(...facts(job, size).map((fact) => element("li", fact)));
    if (job.state !== "done") return;
    get("said-title").textContent = job.prompt ? "What you asked" : "What it saw";
    get("said").textContent = job.answer.prompt;
    this.#renderPerception(job.perception);
    this.#renderTimings(job.answer.timings);
    get("curl").textContent = command(job);
  }

  #renderPerception(perception) {
    if (perception === this.#perception) return; // what was unfolded stays so
    this.#perception = perception;
    const { state, scores, problem } = perception;
    get("perceive").hidden = !["unknown", "failed"].includes(state);
    const found = get("perception");
    if (state === "known") found.replaceChildren(...perceived(scores));
    else if (state === "asking") found.replaceChildren(element("p", "Looking …", "hint"));
    else if (state === "failed") found.replaceChildren(element("p", `${words(problem, { hasKey: hasKey() }).title}.`, "hint"));
    else found.replaceChildren();
  }

  #renderTimings(timings) {
    const known = STAGES.reduce((sum, [stage]) => sum + (timings[stage] ?? 0), 0);
    const durations = { ...timings, receive: Math.max(0, timings.total - known) };
    get("total").textContent = duration(timings.total);
    get("stages").replaceChildren(
      ...STAGES.map(([stage]) => {
        const segment = element("span", "", stage);
        segment.style.flexGrow = durations[stage] / timings.total;
        return segment;
      }),
    );
    get("legend").replaceChildren(
      ...STAGES.map(([stage, name]) => {
        const row = element("div", "", stage);
        row.append(element("dt", name), element("dd", duration(durations[stage])));
        return row;
      }),
    );
  }
}

function facts(job, { width, height }) {
  const found = [`${FORMATS[job.kind]?.name ?? ""} ${bytes(job.file.size)}`];
  if (width) found.unshift(`${width} × ${height}`);
  if (job.state === "done") {
    found.push(`restored ${formatOf(job.answer.type)?.name ?? ""} ${bytes(job.answer.blob.size)}`, job.answer.model);
  }
  return found;
}

/** The likeliest of each group, and all of them to unfold. */
function perceived(scores) {
  const rain = scores.types["rain"] + scores.types["rain and haze"] >= 0.5;
  const groups = GROUPS.filter(([group]) => group === "types" || rain);
  const top = groups.map(([group]) => likeliest(scores[group])[0]);
  const details = element("details", "");
  details.append(element("summary", "All that it weighed"));
  for (const [group, title] of GROUPS) {
    const heading = group === "types" ? title : `${title}, if it rains`;
    details.append(element("h3", heading), meters(likeliest(scores[group])));
  }
  return [meters(top), details];
}

function likeliest(group) {
  return Object.entries(group).sort(([, one], [, other]) => other - one);
}

function meters(rows) {
  const list = element("dl", "", "meters");
  for (const [name, probability] of rows) {
    const row = element("div", "");
    const bar = element("dd", "", "meter");
    bar.style.setProperty("--share", probability);
    bar.append(element("span", percent(probability)));
    row.append(element("dt", NAMES[name] ?? name), bar);
    list.append(row);
  }
  return list;
}

function percent(probability) {
  if (probability > 0 && probability < 0.01) return "< 1 %";
  return `${Math.min(Math.round(100 * probability), probability < 1 ? 99 : 100)} %`;
}

function duration(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return milliseconds >= 1 ? `${Math.round(milliseconds)} ms` : "< 1 ms";
}

// the clipboard's own interface is there on https and localhost only
async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}
