// The photograph at work: sent, restored and compared, or the problem that it met.

import { Comparison } from "./comparison.js";
import { FORMATS, formatOf } from "./pictures.js";
import { words } from "./problems.js";
import { hasKey, useKey } from "./service.js";

const get = (id) => document.getElementById(id);

export class Stage {
  #shown = null; // {job, wanted}: of which job what is shown
  #restored = null; // object URL of the restored picture
  #countdown = 0;

  /** `onShown` is called when pictures of the current job have come to be shown. */
  constructor(session, { announce, onShown }) {
    Object.assign(this, { session, announce, onShown });
    this.comparison = new Comparison({
      stage: get("stage"),
      viewport: get("viewport"),
      canvas: get("canvas"),
      before: get("before"),
      after: get("after"),
      controls: get("comparison"),
      divider: get("divider"),
      line: get("line"),
      handle: get("handle"),
      onZoom: (zoom) => (get("zoom").querySelector(`[value="${zoom}"]`).checked = true),
    });
    get("zoom").addEventListener("change", ({ target }) => {
      this.comparison.zoom = target.value === "fit" ? "fit" : Number(target.value);
    });
    get("cancel").addEventListener("click", () => session.cancel(session.current));
    get("retry").addEventListener("click", () => {
      if (get("retry").getAttribute("aria-disabled") !== "true") session.retry(session.current);
    });
    get("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      useKey(get("key").value.trim());
      get("key").value = "";
      session.retryRefused();
    });
    get("anyway").addEventListener("click", () => {
      const { file, model } = session.current;
      session.add([file], { prompt: "remove the rain", model });
    });
  }

  /** Show the session's current job as it is now. */
  render() {
    const job = this.session.current;
    this.#renderProgress(job);
    this.#renderProblem(job);
    get("toolbar").hidden = job.state !== "done";
    let wanted = "nothing";
    if (job.state === "done") wanted = "comparison";
    else if (job.running && job.shown) wanted = "photograph";
    if (this.#shown?.job === job && this.#shown.wanted === wanted) return;
    const reveal = this.#shown?.job === job;
    this.#shown = { job, wanted };
    get("note").hidden = true;
    if (wanted === "comparison") this.#compare(job, reveal);
    else if (wanted === "photograph") this.#preview(job);
    else this.comparison.clear();
  }

  async #preview(job) {
    await this.comparison.show(job.url, null, { name: job.name });
    if (this.session.current === job) this.onShown(job);
  }

  async #compare(job, reveal) {
    const before = job.shown ? job.url : null;
    const previous = this.#restored;
    this.#restored = URL.createObjectURL(job.answer.blob);
    const shown = await this.comparison.show(before, this.#restored, { name: job.name, reveal });
    if (previous) URL.revokeObjectURL(previous);
    if (this.session.current !== job) return;
    this.#note(job, shown);
    this.onShown(job);
  }

  /** What there is to say about what is, or is not, to be seen. */
  #note(job, shown) {
    const sawNone = !job.prompt && job.answer.prompt.includes("without rain");
    const restored = formatOf(job.answer.type)?.name ?? job.answer.type;
    let text = "";
    if (!shown) text = `This browser does not show ${restored}. The restored photograph can be downloaded.`;
    else if (!job.shown) {
      const came = FORMATS[job.kind]?.name ?? "this format";
      text = `This browser does not show ${came}, so there is no “before” here, and the restored photograph is
        shown as ${restored}. It is downloaded in the format chosen.`;
    }
    if (sawNone) text = `It saw no rain, and left the photograph as it was, or nearly so. ${text}`;
    get("note-text").textContent = text;
    get("anyway").hidden = !sawNone;
    get("note").hidden = !text;
  }

  #renderProgress(job) {
    get("progress").hidden = !job.running;
    if (!job.running) return;
    const bar = get("progress-bar");
    if (job.state === "sending") bar.value = job.sent;
    else bar.removeAttribute("value");
    get("progress-text").textContent = {
      waiting: "Waiting for the others",
      sending: `Sending, ${Math.floor(100 * job.sent)} %`,
      working: "Taking the rain out",
    }[job.state];
  }

  #renderProblem(job) {
    const failed = job.state === "failed";
    get("problem").hidden = !failed;
    clearTimeout(this.#countdown);
    if (!failed) return;
    const { title, text, action } = words(job.problem, { hasKey: hasKey() });
    for (const [id, wanted] of [["problem-title", title], ["problem-text", text]]) {
      if (get(id).textContent !== wanted) get(id).textContent = wanted; // an alert is read out again otherwise
    }
    get("key-form").hidden = action !== "key";
    get("retry").hidden = action !== "retry";
    const { requestId } = job.problem;
    get("problem-request").textContent = requestId ? `Request ${requestId}` : "";
    this.#count(job);
  }

  /** Count down to when another try makes sense. */
  #count(job) {
    const seconds = Math.ceil((job.readyAt - performance.now()) / 1000);
    const waits = seconds > 0;
    get("retry").textContent = waits ? `Try again in ${seconds} s` : "Try again";
    get("retry").setAttribute("aria-disabled", String(waits));
    if (waits) this.#countdown = setTimeout(() => this.#count(job), 250);
    else if (job.problem.retryAfter) this.announce("Another try makes sense now.");
  }
}
