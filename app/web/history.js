// The photographs of the session, to go back to.

const get = (id) => document.getElementById(id);

const STATES = {
  waiting: "waiting",
  sending: "being sent",
  working: "being restored",
  done: "restored",
  failed: "failed",
};

export class History {
  #items = new Map();

  constructor(session) {
    this.session = session;
  }

  /** Show a job as it is now, and which is the current. */
  render(job) {
    get("history").hidden = false;
    get("download-all").hidden = this.session.jobs.filter(({ state }) => state === "done").length < 2;
    const item = this.#items.get(job) ?? this.#make(job);
    item.dataset.state = job.state;
    const said = job.prompt ? `, “${job.prompt}”` : "";
    item.querySelector(".name").textContent = `${job.name}${said}, ${STATES[job.state]}`;
    item.querySelector("button").title = `${job.name}${said}`;
    const bar = item.querySelector("progress");
    bar.hidden = !job.running;
    bar.setAttribute("aria-label", job.name);
    if (job.state === "working") bar.removeAttribute("value");
    else bar.value = job.sent;
    this.#paint(item, job);
    for (const [other, { firstElementChild: button }] of this.#items) {
      if (other === this.session.current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  #make(job) {
    const item = get("job").content.firstElementChild.cloneNode(true);
    item.querySelector("button").addEventListener("click", () => this.session.select(job));
    get("jobs").prepend(item);
    this.#items.set(job, item);
    return item;
  }

  #paint(item, { picture }) {
    const canvas = item.querySelector("canvas");
    if (!picture || canvas.painted === picture) return;
    canvas.painted = picture;
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext("2d").drawImage(picture, 0, 0);
  }
}
