// Two pictures of the same size, one over the other, with a divider between them, and zoom to pixels.

const MOST_ENLARGED = 2; // CSS pixels for a pixel of the picture, where it is fitted
const REVEAL_MS = 900;
const SLACK = 6; // CSS pixels that a finger moves before it drags

/**
 * `zoom` is "fit" or a factor of device pixels to pixels. Fitted, a drag anywhere moves the divider; zoomed,
 * it moves the picture, and the handle moves the divider. The range input does so by keyboard.
 */
export class Comparison {
  #zoom = "fit";
  #share = 50; // of what is visible of the picture that shows it as it was, in percent
  #size = { width: 0, height: 0 };
  #divided = false;
  #loading = 0;
  #held = false; // somebody has moved the divider since it was last drawn by itself

  constructor({ stage, viewport, canvas, before, after, controls, divider, line, handle, onZoom }) {
    Object.assign(this, { stage, viewport, canvas, before, after, controls, divider, line, onZoom });
    new ResizeObserver(() => this.#layOut()).observe(viewport);
    viewport.addEventListener("scroll", () => this.#divide(), { passive: true });
    viewport.addEventListener("dblclick", (event) => this.#toggleZoom(event));
    divider.addEventListener("input", () => {
      this.#held = true;
      this.#moveTo(divider.valueAsNumber);
    });
    this.#drag(viewport, (event) => {
      if (this.#zoom === "fit") this.#follow(event);
      else if (event.type === "pointermove" && event.pointerType === "mouse") {
        viewport.scrollBy(-event.movementX, -event.movementY);
      }
    });
    this.#drag(handle, (event) => this.#follow(event));
  }

  get size() {
    return this.#size;
  }

  /**
   * Show these addresses, either of which may be null, once both are decoded. Both: with a divider between
   * them.
   *
   * @returns whether they are shown: false where the browser cannot, or others were asked for meanwhile
   */
  async show(before, after, { name, reveal = false }) {
    const mine = ++this.#loading;
    this.stage.ariaBusy = "true";
    this.before.alt = before ? `${name}, as it was` : "";
    this.after.alt = after ? `${name}, restored` : "";
    const images = [before && [this.before, before], after && [this.after, after]].filter(Boolean);
    const decoded = await Promise.all(
      images.map(([image, url]) => {
        if (image.src !== url) image.src = url;
        return image.decode().then(
          () => true,
          () => image.complete && image.naturalWidth > 0,
        );
      }),
    );
    if (mine !== this.#loading) return false;
    this.stage.ariaBusy = "false";
    if (!decoded.every(Boolean)) {
      this.clear();
      return false;
    }
    if (!before) this.before.removeAttribute("src");
    if (!after) this.after.removeAttribute("src");
    this.before.hidden = !before;
    this.after.hidden = !after;
    const shown = after ? this.after : this.before;
    this.#size = { width: shown.naturalWidth, height: shown.naturalHeight };
    this.stage.style.setProperty("--ratio", this.#size.width / this.#size.height);
    this.#divided = Boolean(before && after);
    this.controls.hidden = !this.#divided;
    this.viewport.classList.toggle("divided", this.#divided);
    this.#layOut();
    if (reveal && this.#divided) this.#reveal();
    else this.#moveTo(this.#share);
    return true;
  }

  /** Show nothing. */
  clear() {
    this.#loading++;
    this.stage.ariaBusy = "false";
    for (const image of [this.before, this.after]) {
      image.removeAttribute("src");
      image.hidden = true;
    }
    this.controls.hidden = true;
    this.#divided = false;
    this.#size = { width: 0, height: 0 };
    this.canvas.style.width = this.canvas.style.height = "0";
  }

  get zoom() {
    return this.#zoom;
  }

  set zoom(zoom) {
    this.#zoomAt(zoom, this.viewport.clientWidth / 2, this.viewport.clientHeight / 2);
  }

  /** Zoom so that what is at this point of the viewport stays there. */
  #zoomAt(zoom, x, y) {
    const { viewport, canvas } = this;
    const across = (viewport.scrollLeft + x - canvas.offsetLeft) / (canvas.offsetWidth || 1);
    const down = (viewport.scrollTop + y - canvas.offsetTop) / (canvas.offsetHeight || 1);
    this.#zoom = zoom;
    this.#layOut();
    viewport.scrollTo(
      canvas.offsetLeft + across * canvas.offsetWidth - x,
      canvas.offsetTop + down * canvas.offsetHeight - y,
    );
    this.#divide();
    this.onZoom(zoom);
  }

  #toggleZoom({ clientX, clientY }) {
    const { left, top } = this.viewport.getBoundingClientRect();
    this.#zoomAt(this.#zoom === "fit" ? 1 : "fit", clientX - left, clientY - top);
  }

  #layOut() {
    const { viewport, canvas } = this;
    const { width, height } = this.#size;
    if (!width) return;
    const zoomed = this.#zoom !== "fit";
    viewport.classList.toggle("zoomed", zoomed);
    viewport.classList.toggle("pixels", zoomed && this.#zoom > 1);
    const fitting = Math.min(viewport.clientWidth / width, viewport.clientHeight / height, MOST_ENLARGED);
    const scale = zoomed ? this.#zoom / devicePixelRatio : fitting;
    canvas.style.width = `${width * scale}px`;
    canvas.style.height = `${height * scale}px`;
    // what scrolls must be within reach of the keyboard
    if (zoomed) {
      viewport.tabIndex = 0;
      viewport.setAttribute("role", "group");
      viewport.setAttribute("aria-label", "Photograph, enlarged: the arrow keys move it");
    } else {
      for (const attribute of ["tabindex", "role", "aria-label"]) viewport.removeAttribute(attribute);
    }
    this.#divide();
  }

  /** The left and right edge of what is visible of the picture, and its own, in the viewport. */
  #edges() {
    const left = this.canvas.offsetLeft - this.viewport.scrollLeft;
    const right = left + this.canvas.offsetWidth;
    return { right, from: Math.max(0, left), to: Math.min(this.viewport.clientWidth, right) };
  }

  #divide() {
    if (!this.#divided) {
      this.before.style.clipPath = "none";
      return;
    }
    const { right, from, to } = this.#edges();
    const x = from + ((to - from) * this.#share) / 100;
    this.before.style.clipPath = `inset(0 ${right - x}px 0 0)`;
    this.line.style.transform = `translateX(${x}px)`;
  }

  #moveTo(share) {
    this.#share = Math.min(100, Math.max(0, share));
    this.divider.value = this.#share;
    const rounded = Math.round(this.#share);
    this.divider.setAttribute("aria-valuetext", `${rounded} % before, ${100 - rounded} % after`);
    this.#divide();
  }

  #follow({ clientX }) {
    const { from, to } = this.#edges();
    this.#moveTo((100 * (clientX - this.viewport.getBoundingClientRect().left - from)) / (to - from || 1));
  }

  #drag(element, move) {
    let from = null; // where the pointer went down
    let moved = false;
    element.addEventListener("pointerdown", (event) => {
      if (!this.#divided || event.button !== 0) return;
      this.#held = true;
      element.setPointerCapture(event.pointerId);
      from = event.clientX;
      moved = event.pointerType === "mouse";
      if (moved) move(event);
    });
    element.addEventListener("pointermove", (event) => {
      // a finger may be about to scroll the page instead: the browser then sends pointercancel
      moved ||= from !== null && Math.abs(event.clientX - from) > SLACK;
      if (from !== null && moved) move(event);
    });
    element.addEventListener("pointerup", (event) => {
      if (from !== null && event.pointerType !== "mouse") move(event); // a tap, too
      from = null;
    });
    element.addEventListener("pointercancel", () => (from = null));
  }

  /** Draw the divider from the right to the middle, unless it is taken hold of or motion is unwelcome. */
  #reveal() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.#moveTo(50);
      return;
    }
    const started = performance.now();
    const mine = this.#loading;
    this.#held = false;
    const draw = (now) => {
      if (this.#held || mine !== this.#loading) return;
      const passed = Math.min(1, Math.max(0, now - started) / REVEAL_MS);
      this.#moveTo(50 + 50 * (1 - passed) ** 3);
      if (passed < 1) requestAnimationFrame(draw);
    };
    this.#moveTo(100);
    requestAnimationFrame(draw);
  }
}
