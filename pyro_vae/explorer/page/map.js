/** A map of a run's latent space: points, what is behind and over them. */
import { Density, Manifold } from "./backdrop.js";
import { labelColor, makeDot, pageColor } from "./colors.js";
import { drawChosen, drawCursor, drawGuide, drawPath, drawText } from "./marks.js";
import { makePicture } from "./pictures.js";
import { View } from "./view.js";

const FEW = 450; // points in view, which show as their labels
const VERY_FEW = 60; // and as their images
const REACH = 26; // pixels between a tap and the point that it means
const RADIUS = 2.6;

/** A canvas that shows a run's latent space. */
export class LatentMap {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Run} run
   * @param {object} look What all maps show: hidden labels, density, ...
   */
  constructor(canvas, run, look) {
    Object.assign(this, { canvas, run, look });
    Object.assign(this, { cursor: null, path: null, chosen: null });
    this.context = canvas.getContext("2d");
    this.view = new View(run.isLine);
    this.density = new Density(run);
    this.manifold = new Manifold(run);
    this.pictures = new Map();
    this.resize();
    this.home();
  }

  /** Shows all of the test set, but for the outermost points. */
  home() {
    this.view.fit(...this.run.bounds());
    this.draw();
  }

  /** Takes the size that the page gives the canvas. */
  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    this.view.resize(width, height);
    this.draw();
  }

  /** Forgets the colors of the theme before. */
  recolor() {
    this.dots = null;
    this.pictures.clear();
    this.density.key = "";
    this.draw();
  }

  /** Draws everything before the browser's next frame. */
  draw() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.paint();
    });
  }

  paint() {
    const { context, view, look } = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    if (look.density) this.density.draw(context, view);
    const isWaiting = look.manifold && this.manifold.draw(context, view);
    this.paintAxes();
    if (look.points) this.paintPoints();
    if (look.density) this.paintComponents();
    if (this.chosen) drawChosen(context, view, this.run, this.chosen);
    if (this.path) drawPath(context, view, this.path);
    if (this.cursor) drawCursor(context, this.cursorPixel());
    if (isWaiting) this.draw();
  }

  /** Returns where the pointer is drawn; on a line that is half way up. */
  cursorPixel() {
    const [x, y] = this.view.toPixel(this.cursor);
    return [x, this.run.isLine ? this.cursorHeight ?? this.view.height / 2 : y];
  }

  paintAxes() {
    const { context, view } = this;
    const step = niceStep(90 / view.scaleX);
    const first = view.toPlane([0, view.height]);
    const last = view.toPlane([view.width, 0]);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = pageColor("quiet");
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    const label = (value) => `${+value.toFixed(4)}`.replace("-", "−");
    for (let u = Math.ceil(first[0] / step) * step; u < last[0]; u += step) {
      context.fillText(label(u), view.toPixel([u, 0])[0], view.height - 7);
    }
    if (this.run.isLine) return;
    context.textAlign = "left";
    for (let v = Math.ceil(first[1] / step) * step; v < last[1]; v += step) {
      const y = view.toPixel([0, v])[1];
      if (y < view.height - 24 && y > 12) context.fillText(label(v), 7, y + 4);
    }
  }

  /** Returns the numbers of the points in view whose labels are shown. */
  inView() {
    const { labels } = this.run.dataset;
    const [left, bottom] = this.view.toPlane([0, this.view.height]);
    const [right, top] = this.view.toPlane([this.view.width, 0]);
    const { points } = this.run;
    const found = [];
    for (let i = 0; i < labels.length; i++) {
      const [u, v] = [points[2 * i], points[2 * i + 1]];
      const isInside = u > left && u < right && v > bottom && v < top;
      if (isInside && !this.look.hidden.has(labels[i])) found.push(i);
    }
    return found;
  }

  paintPoints() {
    const { context, look } = this;
    const { dataset } = this.run;
    const found = this.inView();
    const hasPictures = found.length <= VERY_FEW && dataset.pixels;
    context.globalAlpha = look.manifold ? 0.35 : 0.8;
    if (hasPictures) found.forEach((i) => this.paintPicture(i));
    else if (found.length <= FEW && dataset.words.has_labels) found.forEach((i) => this.paintLabel(i));
    else this.paintDots(found);
    context.globalAlpha = 1;
    if (!hasPictures && found.length > FEW && dataset.words.has_labels) this.paintNames(found);
  }

  paintDots(found) {
    const { names, labels } = this.run.dataset;
    const radius = found.length > 4000 ? RADIUS : RADIUS + 1;
    if (this.dots?.radius !== radius) {
      this.dots = names.map((_, number) => makeDot(number, radius, this.ratio));
      this.dots.radius = radius;
    }
    const side = this.dots[0].width / this.ratio;
    for (const i of found) {
      const [x, y] = this.view.toPixel(this.run.point(i));
      this.context.drawImage(this.dots[labels[i]], x - side / 2, y - side / 2, side, side);
    }
  }

  paintLabel(i) {
    const { dataset } = this.run;
    const place = this.view.toPixel(this.run.point(i));
    drawText(this.context, dataset.nameOf(i), place, labelColor(dataset.labels[i]), 13);
  }

  paintPicture(i) {
    const { dataset } = this.run;
    if (!dataset.has(i)) {
      this.paintLabel(i);
      return;
    }
    if (!this.pictures.has(i)) {
      this.pictures.set(i, makePicture(dataset.image(i), dataset.shape));
    }
    const [x, y] = this.view.toPixel(this.run.point(i));
    this.context.fillStyle = labelColor(dataset.labels[i]);
    this.context.fillRect(x - 17, y - 17, 34, 34);
    this.context.drawImage(this.pictures.get(i), x - 15, y - 15, 30, 30);
  }

  /** Writes each label where the middle of its points in view is. */
  paintNames(found) {
    const { names, labels } = this.run.dataset;
    if (names.length > 40) return;
    names.forEach((name, number) => {
      const points = found.filter((i) => labels[i] === number).map((i) => this.run.point(i));
      if (points.length < 4) return;
      const place = this.view.toPixel([0, 1].map((k) => median(points.map((p) => p[k]))));
      if (this.run.isLine) place[0] = this.view.width - 24;
      drawText(this.context, name, place, labelColor(number), 22);
    });
  }

  /** Outlines the parts of a mixture, where the prior is one. */
  paintComponents() {
    const { prior } = this.run.model;
    if (prior?.kind !== "mixture" || this.run.isLine) return;
    prior.parts.forEach((part) => {
      drawGuide(this.context, this.view, this.run, part, pageColor("prior"), [3, 4]);
    });
  }

  /** @returns {number|null} The point at a pixel whose image the page has. */
  nearest(pixel, reach = REACH) {
    let [best, found] = [reach, null];
    for (const i of this.inView()) {
      if (!this.run.dataset.has(i)) continue;
      const [x, y] = this.view.toPixel(this.run.point(i));
      const distance = Math.hypot(x - pixel[0], y - pixel[1]);
      if (distance < best) [best, found] = [distance, i];
    }
    return found;
  }
}

/** Returns 1, 2 or 5 times a power of ten, not below a value. */
function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value);
}

function median(values) {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
}
