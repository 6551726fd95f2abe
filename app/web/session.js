// What was asked since the page was opened: photographs, and what became of each.

import { FORMATS, PREVIEWS, isShown, sniff, thumbnail } from "./pictures.js";
import { Problem, derain, perceive } from "./service.js";

const AT_ONCE = 2; // photographs on their way; the others wait, and the service batches these

/**
 * One photograph with one sentence, and the network that is to restore it ("": the service's usual one).
 *
 * `state`: waiting, sending, working, done or failed. `answer` is what is shown, `answers` holds it and the
 * same in other formats, by what was asked for ("": as it came). `shown`: whether the browser shows the
 * photograph itself.
 */
class Job {
  kind = null;
  shown = null;
  state = "waiting";
  sent = 0;
  problem = null;
  readyAt = 0; // performance.now() from which another try makes sense
  answer = null;
  answers = new Map();
  asked = null; // {prompt, model, format} of what is shown
  perception = { state: "unknown" }; // unknown, asking, known with scores, or failed with problem
  picture = null; // ImageBitmap
  #url = null;

  constructor(file, { prompt, model }) {
    this.file = file;
    this.prompt = prompt;
    this.model = model;
  }

  get name() {
    return this.file.name || "photograph";
  }

  get url() {
    return (this.#url ??= URL.createObjectURL(this.file));
  }

  get running() {
    return ["waiting", "sending", "working"].includes(this.state);
  }

  isOf(file, { prompt, model }) {
    const same = ["name", "size", "lastModified"].every((property) => this.file[property] === file[property]);
    return same && this.prompt === prompt && this.model === model;
  }
}

/** Dispatches `change` with the job as `detail` whenever one changes, or another one becomes the current. */
export class Session extends EventTarget {
  jobs = [];
  current = null;
  format = ""; // that photographs are asked for in; "": as they came

  /** Restore photographs as wished, {prompt, model}. What is there already, or on its way, is not asked for twice. */
  add(files, wish) {
    const jobs = [...files].map((file) => {
      const known = this.jobs.find((job) => job.isOf(file, wish) && job.state !== "failed");
      if (known) return known;
      const job = new Job(file, wish);
      this.jobs.push(job);
      return job;
    });
    if (jobs.length) this.select(jobs[0]);
    this.#begin();
  }

  select(job) {
    this.current = job;
    this.#changed(job);
  }

  retry(job) {
    if (job.state !== "failed") return;
    job.state = "waiting";
    job.problem = null;
    this.#changed(job);
    this.#begin();
  }

  /** Try all again that were refused for want of a key. */
  retryRefused() {
    this.jobs.filter((job) => job.problem?.kind === "unauthorized").forEach((job) => this.retry(job));
  }

  cancel(job) {
    job.abort?.abort();
    if (job.state === "waiting") this.#fail(job, new Problem("cancelled"));
  }

  /**
   * What was restored, in this format ("": as it came), asked for where it is not there yet.
   *
   * @returns the Answer; throws a Problem
   */
  async inFormat(job, format) {
    const type = FORMATS[format || job.kind]?.type;
    const ready = job.answers.get(format) ?? [...job.answers.values()].find((answer) => answer.type === type);
    if (ready) return ready;
    // the sentence that was used, so that it is the same picture
    const answer = await derain(job.file, { prompt: job.answer.prompt, model: job.model, format });
    job.answers.set(format, answer);
    return answer;
  }

  /** Find out what the service sees where it was told what to do; sends the photograph again. */
  async perceive(job) {
    if (["asking", "known"].includes(job.perception.state)) return;
    job.perception = { state: "asking" };
    this.#changed(job);
    try {
      this.#perceived(job, await perceive(job.file));
    } catch (problem) {
      job.perception = { state: "failed", problem };
    }
    this.#changed(job);
  }

  /** The same photograph with another sentence looks the same. */
  #perceived(job, scores) {
    const known = { state: "known", scores };
    for (const other of this.jobs) if (other.file === job.file) other.perception = known;
  }

  #begin() {
    const free = AT_ONCE - this.jobs.filter(({ state }) => ["sending", "working"].includes(state)).length;
    this.jobs
      .filter(({ state }) => state === "waiting")
      .slice(0, Math.max(0, free))
      .forEach((job) => this.#run(job));
  }

  async #run(job) {
    job.abort = new AbortController();
    job.state = "sending";
    job.sent = 0;
    this.#changed(job);
    try {
      job.kind = await sniff(job.file).catch(() => {
        throw new Problem("unreadable-file");
      });
      job.shown = await isShown(job.file, job.kind);
      this.#changed(job);
      if (job.shown && !job.picture) this.#picture(job, job.file);
      const format = this.format || (job.shown ? "" : (PREVIEWS[job.kind] ?? ""));
      const answer = await derain(job.file, {
        prompt: job.prompt,
        model: job.model,
        format,
        signal: job.abort.signal,
        onSent: (share) => {
          job.sent = share;
          job.state = share < 1 ? "sending" : "working";
          this.#changed(job);
        },
      });
      job.answer = answer;
      job.asked = { prompt: job.prompt, model: job.model, format };
      job.answers.set(format, answer);
      job.state = "done";
      if (answer.scores) this.#perceived(job, answer.scores);
      this.#picture(job, answer.blob);
      this.#changed(job);
    } catch (problem) {
      this.#fail(job, problem);
    }
    this.#begin();
  }

  #fail(job, problem) {
    if (!(problem instanceof Problem)) console.error(problem);
    job.problem = problem instanceof Problem ? problem : new Problem("page", { detail: String(problem) });
    job.readyAt = performance.now() + 1000 * (job.problem.retryAfter ?? 0);
    job.state = "failed";
    this.#changed(job);
  }

  async #picture(job, blob) {
    const picture = await thumbnail(blob);
    if (!picture || (job.answer && blob !== job.answer.blob)) return;
    job.picture?.close();
    job.picture = picture;
    this.#changed(job);
  }

  #changed(job) {
    this.dispatchEvent(new CustomEvent("change", { detail: job }));
  }
}
