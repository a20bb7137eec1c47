/** What stands behind the points: the prior's density, and mean images. */
import { pageColor } from "./colors.js";
import { contour } from "./contours.js";
import { makePicture } from "./pictures.js";

const GRID = 72; // points of the density along each axis
const DROPS = [0.5, 2, 4.5]; // nats below the peak, as 1, 2 and 3 deviations
const TILE = 34; // pixels on the screen
const BUDGET = 20; // milliseconds of decoding between two frames
const STALE = 1.4; // zoom, after which tiles are made anew

/** The prior's density over what a map shows. */
export class Density {
  constructor(run) {
    Object.assign(this, { run, key: "" });
  }

  /** Draws the density as a haze with three contours, or as a curve. */
  draw(context, view) {
    if (!this.run.model.prior) return;
    if (this.run.isLine) this.drawCurve(context, view);
    else this.drawHaze(context, view);
  }

  drawCurve(context, view) {
    const logs = Array.from({ length: 240 }, (_, i) => {
      const [u] = view.toPlane([(i / 239) * view.width, 0]);
      return this.run.model.prior.logDensity([u]);
    });
    drawHill(context, view, logs, pageColor("prior"));
  }

  drawHaze(context, view) {
    if (this.key !== view.key()) this.measure(view);
    context.imageSmoothingEnabled = true;
    context.drawImage(this.haze, 0, 0, view.width, view.height);
    context.strokeStyle = pageColor("prior");
    context.globalAlpha = 0.5;
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of this.lines) {
      context.moveTo(...view.toPixel(from));
      context.lineTo(...view.toPixel(to));
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  measure(view) {
    const low = view.toPlane([0, view.height]);
    const high = view.toPlane([view.width, 0]);
    const at = (k, i) => low[i] + ((high[i] - low[i]) * k) / (GRID - 1);
    const logs = [];
    for (let i = 0; i < GRID; i++) {
      for (let j = 0; j < GRID; j++) {
        logs.push(this.run.model.prior.logDensity(this.run.lift([at(i, 0), at(j, 1)])));
      }
    }
    const peak = Math.max(...logs);
    this.lines = DROPS.flatMap((drop) => contour(logs, GRID, peak - drop, low, high));
    this.haze = makeHaze(logs.map((log) => Math.exp(log - peak)));
    this.key = view.key();
  }
}

/** Returns a small canvas that is the denser the higher the values are. */
function makeHaze(values) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = GRID;
  const context = canvas.getContext("2d");
  context.fillStyle = pageColor("prior");
  values.forEach((value, place) => {
    context.globalAlpha = 0.42 * value;
    context.fillRect(Math.floor(place / GRID), GRID - 1 - (place % GRID), 1, 1);
  });
  return canvas;
}

/** Draws a density over a line: a filled curve that stands on the bottom. */
export function drawHill(context, view, logs, color, left = 0, right = view.width) {
  const peak = Math.max(...logs);
  context.beginPath();
  context.moveTo(left, view.height);
  logs.forEach((log, i) => {
    const x = left + ((right - left) * i) / (logs.length - 1);
    context.lineTo(x, view.height * (1 - 0.55 * Math.exp(log - peak)));
  });
  context.lineTo(right, view.height);
  context.fillStyle = context.strokeStyle = color;
  context.globalAlpha = 0.18;
  context.fill();
  context.globalAlpha = 0.8;
  context.lineWidth = 1.5;
  context.stroke();
  context.globalAlpha = 1;
}

/** Mean images over what a map shows, decoded tile by tile. */
export class Manifold {
  constructor(run) {
    Object.assign(this, { run, tiles: new Map(), step: 0 });
  }

  /**
   * Draws the tiles that are ready, and decodes some more.
   * @returns {boolean} Whether there are more to come.
   */
  draw(context, view) {
    const zoom = (this.step * view.scaleX) / TILE;
    if (zoom > STALE || zoom < 1 / STALE) {
      this.tiles.clear();
      this.step = TILE / view.scaleX;
    }
    const stop = performance.now() + BUDGET;
    const missing = [];
    context.imageSmoothingEnabled = true;
    for (const place of this.visible(view)) {
      const tile = this.tiles.get(place.join());
      if (tile) this.drawTile(context, view, place, tile);
      else missing.push(place);
    }
    while (missing.length && performance.now() < stop) {
      const place = missing.shift();
      this.tiles.set(place.join(), this.decode(place));
      this.drawTile(context, view, place, this.tiles.get(place.join()));
    }
    return missing.length > 0;
  }

  /** Returns the places of the tiles in view, from the middle outward. */
  visible(view) {
    const low = view.toPlane([0, view.height]).map((v) => Math.floor(v / this.step));
    const high = view.toPlane([view.width, 0]).map((v) => Math.floor(v / this.step));
    if (this.run.isLine) low[1] = high[1] = 0;
    const places = [];
    for (let i = low[0]; i <= high[0]; i++) {
      for (let j = low[1]; j <= high[1]; j++) places.push([i, j]);
    }
    const far = ([i, j]) => Math.hypot(2 * i - low[0] - high[0], 2 * j - low[1] - high[1]);
    return places.sort((a, b) => far(a) - far(b));
  }

  decode(place) {
    const z = this.run.lift(place.map((k) => (k + 0.5) * this.step));
    return makePicture(this.run.model.decode(z), this.run.dataset.shape);
  }

  drawTile(context, view, [i, j], tile) {
    const side = this.step * view.scaleX;
    const [x, y] = view.toPixel([i * this.step, (j + 1) * this.step]);
    const top = this.run.isLine ? view.height - side - 24 : y;
    context.drawImage(tile, x, top, side + 0.5, side + 0.5);
  }
}
