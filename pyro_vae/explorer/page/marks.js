/** What a map draws over the points: q, the posterior, a path, the pointer. */
import { drawHill } from "./backdrop.js";
import { pageColor } from "./colors.js";
import { contour, ellipse } from "./contours.js";

const FAINT = 0.03; // the weight of a mixture's part, below which none is drawn

/** Draws q's ellipse at two standard deviations; a bar on a line. */
export function drawGuide(context, view, run, q, color, dash = []) {
  for (const normal of q.normals()) {
    if (normal.weight < FAINT) continue;
    context.globalAlpha = Math.min(1, 0.25 + normal.weight);
    const mean = run.project(normal.mean);
    const covariance = projectCovariance(run, normal.covariance);
    for (const [width, stroke] of [[5.5, pageColor("halo")], [2.5, color]]) {
      context.lineWidth = width;
      context.strokeStyle = stroke;
      context.setLineDash(width < 3 ? dash : []);
      if (run.isLine) drawBar(context, view, mean[0], Math.sqrt(covariance[0][0]), dash.length);
      else strokeLine(context, view, ellipse(mean, covariance));
    }
  }
  context.setLineDash([]);
  context.globalAlpha = 1;
}

function projectCovariance(run, covariance) {
  const rows = run.words.directions;
  const times = (row) =>
    covariance.map((column) => column.reduce((sum, c, p) => sum + c * row[p], 0));
  return rows.map((a) => rows.map((b) => times(a).reduce((sum, v, p) => sum + v * b[p], 0)));
}

function drawBar(context, view, mean, deviation, isDashed) {
  const height = view.height * (isDashed ? 0.5 : 0.42);
  const [left] = view.toPixel([mean - 2 * deviation, 0]);
  const [right] = view.toPixel([mean + 2 * deviation, 0]);
  context.beginPath();
  context.moveTo(left, height);
  context.lineTo(right, height);
  for (const x of [left, right]) {
    context.moveTo(x, height - 8);
    context.lineTo(x, height + 8);
  }
  context.stroke();
}

function strokeLine(context, view, points) {
  context.beginPath();
  points.forEach((point, k) => {
    const pixel = view.toPixel(point);
    if (k) context.lineTo(...pixel);
    else context.moveTo(...pixel);
  });
  context.stroke();
}

/** The exact posterior of an image, as the package computed it. */
export class Posterior {
  /**
   * @param {object} words What the package wrote of it.
   * @param {Arrays} arrays Where its values are.
   */
  constructor(words, arrays) {
    this.words = words;
    this.logs = arrays.floats(words.values).map((v) => (v / 255 - 1) * words.depth);
    if (words.low.length < 2) return;
    const size = Math.sqrt(this.logs.length);
    this.lines = words.levels.map((level) =>
      contour(this.logs, size, level, words.low, words.high),
    );
  }

  /** Draws the contours that hold 50, 90 and 99 % of it; a hill on a line. */
  draw(context, view) {
    const { low, high } = this.words;
    if (!this.lines) {
      const [left] = view.toPixel([low[0], 0]);
      const [right] = view.toPixel([high[0], 0]);
      drawHill(context, view, Array.from(this.logs), pageColor("posterior"), left, right);
      return;
    }
    for (const [wider, color] of [[3, "halo"], [0, "posterior"]]) {
      context.strokeStyle = pageColor(color);
      this.lines.forEach((lines, k) => {
        context.lineWidth = 2.2 - 0.5 * k + wider;
        strokePieces(context, view, lines);
      });
    }
  }
}

/** Draws an image's posterior, the best q, the guide's q and its center. */
export function drawChosen(context, view, run, { point, q, best, posterior, hasRow }) {
  if (posterior) posterior.draw(context, view);
  if (best) drawGuide(context, view, run, best, pageColor("guide"), [5, 5]);
  if (q) drawGuide(context, view, run, q, pageColor("guide"));
  const pixel = view.toPixel(point);
  if (run.isLine && !hasRow) pixel[1] = view.height * 0.42;
  context.fillStyle = pageColor("guide");
  context.strokeStyle = pageColor("halo");
  context.lineWidth = 2;
  context.beginPath();
  context.arc(...pixel, 5, 0, 7);
  context.fill();
  context.stroke();
}

/** Draws the way from A to B, with a letter at each end. */
export function drawPath(context, view, { from, to }) {
  const [a, b] = [view.toPixel(from), view.toPixel(to)];
  context.strokeStyle = pageColor("halo");
  for (const [width, color] of [[6, "halo"], [2.5, "ink"]]) {
    context.lineWidth = width;
    context.strokeStyle = pageColor(color);
    context.beginPath();
    context.moveTo(...a);
    context.lineTo(...b);
    context.stroke();
  }
  drawLetter(context, a, "A");
  drawLetter(context, b, "B");
}

function strokePieces(context, view, pieces) {
  context.beginPath();
  for (const [from, to] of pieces) {
    context.moveTo(...view.toPixel(from));
    context.lineTo(...view.toPixel(to));
  }
  context.stroke();
}

function drawLetter(context, [x, y], letter) {
  context.fillStyle = pageColor("ink");
  context.beginPath();
  context.arc(x, y, 9, 0, 7);
  context.fill();
  context.fillStyle = pageColor("halo");
  context.font = "600 11px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(letter, x, y + 0.5);
}

/** Draws the pointer: a small cross in a circle. */
export function drawCursor(context, [x, y]) {
  for (const [width, color] of [[5, "halo"], [2, "ink"]]) {
    context.lineWidth = width;
    context.strokeStyle = pageColor(color);
    context.beginPath();
    context.arc(x, y, 8, 0, 7);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 8 * dx, y + 8 * dy);
      context.lineTo(x + 13 * dx, y + 13 * dy);
    }
    context.stroke();
  }
}

/** Draws text that can be read over anything. */
export function drawText(context, text, [x, y], color, size = 12) {
  context.font = `700 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = size / 3;
  context.strokeStyle = pageColor("halo");
  context.strokeText(text, x, y);
  context.fillStyle = color;
  context.fillText(text, x, y);
}
