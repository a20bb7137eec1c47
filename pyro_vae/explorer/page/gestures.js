/** Mouse, fingers and keys on a map. */

const STILL = 6; // pixels that a tap may move
const KEY_STEP = 12; // pixels of an arrow key

/**
 * Turns events on a canvas into calls of what they mean.
 * @param {HTMLCanvasElement} canvas
 * @param {object} on The functions `hover`, `leave`, `tap`, `drag`, `drop`,
 *   `pan`, `zoom` and `key`; places are pixels of the canvas.
 * @param {() => boolean} pans Whether a drag moves the map.
 */
export function listen(canvas, on, pans) {
  const touch = new Touch(on, pans);
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    touch.press(event, place(event));
  });
  canvas.addEventListener("pointermove", (event) => touch.move(event, place(event)));
  canvas.addEventListener("pointerup", (event) => touch.release(event, place(event)));
  canvas.addEventListener("pointercancel", (event) => touch.forget(event));
  canvas.addEventListener("pointerleave", () => on.leave());
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const speed = event.ctrlKey ? 0.01 : event.deltaMode ? 0.05 : 0.0018;
    on.zoom(Math.exp(-event.deltaY * speed), place(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (on.key(event.key, event.shiftKey ? 4 * KEY_STEP : KEY_STEP, event)) {
      event.preventDefault();
    }
  });
}

/** The fingers or buttons that are down, and what they are doing. */
class Touch {
  constructor(on, pans) {
    Object.assign(this, { on, pans, down: new Map(), start: null, kind: "" });
  }

  press(event, place) {
    this.down.set(event.pointerId, place);
    if (this.down.size === 2) {
      this.kind = "pinch";
    } else if (this.down.size === 1) {
      this.start = place;
      const isPan = this.pans() || event.button !== 0 || event.shiftKey;
      this.kind = isPan ? "pan" : "tap";
      this.on.hover(place);
    }
  }

  move(event, place) {
    const before = this.down.get(event.pointerId);
    if (!before) {
      this.on.hover(place);
      return;
    }
    if (this.kind === "pinch") this.pinch(event.pointerId, before, place);
    this.down.set(event.pointerId, place);
    if (this.kind === "pan") {
      this.on.pan(place[0] - before[0], place[1] - before[1]);
      if (distance(place, this.start) > STILL) this.hasMoved = true;
    }
    const isFar = this.kind === "tap" && distance(place, this.start) > STILL;
    if (isFar) this.kind = "drag";
    if (this.kind === "drag") this.on.drag(this.start, place);
  }

  /** Zooms and moves by the change of two fingers' places. */
  pinch(id, before, place) {
    const other = [...this.down].find(([key]) => key !== id)?.[1];
    if (!other) return;
    const factor = distance(place, other) / Math.max(distance(before, other), 1);
    this.on.zoom(factor, place.map((v, i) => (v + other[i]) / 2));
    this.on.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
  }

  release(event, place) {
    if (!this.down.delete(event.pointerId)) return;
    const isTap = this.kind === "tap" || (this.kind === "pan" && !this.hasMoved && event.button === 0);
    if (isTap) this.on.tap(place);
    if (this.kind === "drag") this.on.drop(this.start, place);
    if (!this.down.size) Object.assign(this, { kind: "", hasMoved: false });
  }

  forget(event) {
    this.down.delete(event.pointerId);
    this.kind = "";
  }
}

function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}
