// The page: what comes in goes to the session, what changes there is shown.

import { History } from "./history.js";
import { listen } from "./intake.js";
import { Panel } from "./panel.js";
import { FORMATS, restoredName } from "./pictures.js";
import { words } from "./problems.js";
import { hasKey, models } from "./service.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { downloadZip } from "./vendor/client-zip.js";

const get = (id) => document.getElementById(id);

const session = new Session();
const stage = new Stage(session, { announce, onShown: () => panel.render(stage.comparison.size) });
const panel = new Panel(session, { announce });
const history = new History(session);
const announced = new Map(); // job -> the state that was told last
let looked = null; // the job that was looked at last

/** Tell those who do not see it. */
function announce(text) {
  get("status").textContent = text;
}

function tell(job) {
  if (announced.get(job) === job.state) return;
  announced.set(job, job.state);
  if (job.state === "working") announce(`Restoring ${job.name}`);
  if (job.state === "done") announce(`${job.name} is restored`);
  // of the one that is looked at, the stage tells
  if (job.state === "failed" && job !== session.current) announce(`${job.name} failed`);
}

session.addEventListener("change", ({ detail: job }) => {
  const focused = document.activeElement;
  if (get("main").dataset.view === "welcome") {
    get("main").dataset.view = "work";
    get("work").hidden = get("again").hidden = false;
    get("samples").hidden = true;
  }
  tell(job);
  history.render(job);
  if (job === session.current) {
    stage.render();
    panel.render(stage.comparison.size);
    get("format").options[0].textContent = `As it came${job.kind ? ` (${FORMATS[job.kind].name})` : ""}`;
  }
  if (looked !== session.current) {
    looked = session.current;
    // it may have been called from the thumbnails, far below
    if (get("work").getBoundingClientRect().top < 0) get("work").scrollIntoView();
  }
  // what had the focus may be gone
  if (focused?.closest("[hidden]")) get("work").focus({ preventScroll: true });
});

listen({
  take: (files) => {
    get("refusal").textContent = "";
    session.add(files, wish());
  },
  refuse: (text) => (get("refusal").textContent = text),
});

/** What is to be done with a photograph, as {prompt, model}. */
function wish() {
  return { prompt: get("sentence").value.trim().replace(/\s+/g, " "), model: get("model").value };
}

/** Let the network be chosen, where there is more than one. */
async function offerModels() {
  const found = await models().catch(() => []); // whoever needs a key is asked for it with the first photograph
  const options = found.map(({ name, default: usual, parameters }) => {
    const millions = (parameters / 1e6).toFixed(1);
    return new Option(`${name}, ${millions} million weights${usual ? " (usual)" : ""}`, usual ? "" : name, usual, usual);
  });
  get("model").replaceChildren(...options);
  get("network").hidden = options.length < 2;
}

offerModels();
get("key-form").addEventListener("submit", offerModels);

get("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (session.current) session.add([session.current.file], wish());
  else get("files").click();
});
get("sentence-hint").addEventListener("click", ({ target }) => {
  if (target.matches(".say")) get("sentence").value = target.textContent;
});

get("format").addEventListener("change", ({ target }) => (session.format = target.value));
get("download").addEventListener("click", ({ target }) =>
  download(target, async () => {
    const job = session.current;
    const { blob, type } = await session.inFormat(job, get("format").value);
    save(blob, restoredName(job.name, type));
  }),
);
get("download-all").addEventListener("click", ({ target }) =>
  download(target, async () => {
    const names = new Set();
    const format = get("format").value;
    const files = [];
    for (const job of session.jobs.filter(({ state }) => state === "done")) {
      const { blob, type } = await session.inFormat(job, format);
      files.push({ name: restoredName(job.name, type, names), input: blob });
    }
    save(await downloadZip(files).blob(), "derained.zip");
  }),
);

/** Do what a button of this text is for, unless it is being done; what goes wrong is said. */
async function download(button, make) {
  if (button.getAttribute("aria-busy") === "true") return;
  const text = button.textContent;
  button.setAttribute("aria-busy", "true");
  button.textContent = "Preparing …";
  try {
    await make();
  } catch (problem) {
    const { title, text } = words(problem, { hasKey: hasKey() });
    get("note-text").textContent = `${title}. ${text}`;
    get("anyway").hidden = true;
    get("note").hidden = false;
    announce(title);
  } finally {
    button.removeAttribute("aria-busy");
    button.textContent = text;
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
