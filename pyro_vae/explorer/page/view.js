/** What part of the plane a map shows. */

const MARGIN = 0.06;
const CLOSEST = 2e4; // pixels a unit

/** A window on the plane: where its middle is, and how large a unit is. */
export class View {
  /** @param {boolean} isLine Whether the second axis is no latent's. */
  constructor(isLine) {
    Object.assign(this, { isLine, width: 1, height: 1 });
    Object.assign(this, { x: 0, y: 0, scaleX: 1, scaleY: 1 });
  }

  /** Shows a box as large as it fits. */
  fit([left, bottom], [right, top]) {
    this.x = (left + right) / 2;
    this.y = (bottom + top) / 2;
    const room = 1 - 2 * MARGIN;
    this.scaleX = (room * this.width) / Math.max(right - left, 1e-6);
    this.scaleY = (room * this.height) / Math.max(top - bottom, 1e-6);
    if (!this.isLine) this.scaleX = this.scaleY = Math.min(this.scaleX, this.scaleY);
  }

  /** @returns {number[]} The pixel of coordinates. */
  toPixel([u, v]) {
    const x = this.width / 2 + (u - this.x) * this.scaleX;
    return [x, this.height / 2 - (v - this.y) * this.scaleY];
  }

  /** @returns {number[]} The coordinates at a pixel. */
  toPlane([px, py]) {
    const u = this.x + (px - this.width / 2) / this.scaleX;
    return [u, this.y - (py - this.height / 2) / this.scaleY];
  }

  /** Grows by a factor around a pixel. */
  zoom(factor, pixel) {
    const before = this.toPlane(pixel);
    this.scaleX = Math.min(CLOSEST, Math.max(2, this.scaleX * factor));
    if (!this.isLine) this.scaleY = this.scaleX;
    const after = this.toPlane(pixel);
    this.x += before[0] - after[0];
    if (!this.isLine) this.y += before[1] - after[1];
  }

  /** Moves by pixels. */
  pan(dx, dy) {
    this.x -= dx / this.scaleX;
    if (!this.isLine) this.y += dy / this.scaleY;
  }

  /** Takes another size, with the same middle and about the same box. */
  resize(width, height) {
    const ratio = Math.min(width / this.width, height / this.height);
    const [x, y] = this.isLine ? [width / this.width, height / this.height] : [ratio, ratio];
    this.scaleX *= x;
    this.scaleY *= y;
    Object.assign(this, { width, height });
  }

  /** @returns {string} What tells two views apart. */
  key() {
    return [this.x, this.y, this.scaleX, this.scaleY, this.width, this.height].join();
  }
}
