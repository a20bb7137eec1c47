/** From the strokes of a pen to an image such as those of the data set. */

const NO_EXTENT = 1e-3; // below which a stroke is a dot

/**
 * Draws strokes as the data set's images were made: scaled into a box, and
 * shifted until the center of mass is where theirs is.
 * @param {number[][][]} strokes Lists of points, in any unit, y downward.
 * @param {number[]} shape Height and width of the image.
 * @param {{box: number, center: number[], brightest: number}} frame What the
 *   package measured on the test images, in pixels.
 * @returns {Float32Array|null} Null without a stroke.
 */
export function drawFigure(strokes, shape, frame) {
  const points = strokes.flat();
  if (!points.length) return null;
  const [height, width] = shape;
  const radius = 0.05 * frame.box + 0.3;
  const [low, high] = extent(points);
  const size = Math.max(high[0] - low[0], high[1] - low[1]);
  const scale = size < NO_EXTENT ? 1 : Math.max(frame.box - 2 * radius, 1) / size;
  const half = [0, 1].map((i) => (scale * (high[i] - low[i])) / 2 + radius);
  const place = (middle) =>
    strokes.map((stroke) =>
      stroke.map((p) => p.map((v, i) => middle[i] + scale * (v - (low[i] + high[i]) / 2))),
    );
  const rough = [width / 2, height / 2];
  const mass = centerOfMass(rasterize(place(rough), shape, radius), shape);
  const target = [frame.center[1] + 0.5, frame.center[0] + 0.5];
  const middle = rough.map((r, i) => {
    const side = [width, height][i];
    const room = Math.min(half[i], side / 2);
    return Math.min(side - room, Math.max(room, r + target[i] - mass[i]));
  });
  return rasterize(place(middle), shape, radius).map((v) => v * frame.brightest);
}

/** Returns the corners of the box around points. */
function extent(points) {
  const of = (choose) => [0, 1].map((i) => choose(...points.map((p) => p[i])));
  return [of(Math.min), of(Math.max)];
}

/** Returns an image of strokes whose pen has a radius and a soft edge. */
function rasterize(strokes, [height, width], radius) {
  const image = new Float32Array(height * width);
  for (const stroke of strokes) {
    for (let k = 0; k < Math.max(stroke.length - 1, 1); k++) {
      inkSegment(image, [height, width], stroke[k], stroke[k + 1] ?? stroke[k], radius);
    }
  }
  return image;
}

function inkSegment(image, [height, width], a, b, radius) {
  const reach = radius + 0.5;
  const range = (i, side) => [
    Math.max(0, Math.floor(Math.min(a[i], b[i]) - reach)),
    Math.min(side, Math.ceil(Math.max(a[i], b[i]) + reach)),
  ];
  const [left, right] = range(0, width);
  const [top, bottom] = range(1, height);
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const distance = distanceToSegment([x + 0.5, y + 0.5], a, b);
      const ink = Math.min(1, Math.max(0, reach - distance));
      image[y * width + x] = Math.max(image[y * width + x], ink);
    }
  }
}

function distanceToSegment(p, a, b) {
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const square = dx * dx + dy * dy;
  const along = square ? ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / square : 0;
  const t = Math.min(1, Math.max(0, along));
  return Math.hypot(p[0] - a[0] - t * dx, p[1] - a[1] - t * dy);
}

/** Returns the center of mass of an image, in pixels from its corner. */
function centerOfMass(image, [height, width]) {
  let [total, x, y] = [1e-12, 0, 0];
  image.forEach((value, place) => {
    total += value;
    x += value * ((place % width) + 0.5);
    y += value * (Math.floor(place / width) + 0.5);
  });
  return [x / total, y / total];
}
