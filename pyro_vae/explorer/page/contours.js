/** Contours of a function on a grid, by marching squares. */

/**
 * Returns the pieces of a contour, each of two points.
 * @param {ArrayLike<number>} values Row by row, the first axis slowest.
 * @param {number} size The number of points along each axis.
 * @param {number} level The value on the contour.
 * @param {number[]} low The coordinates of the first point.
 * @param {number[]} high The coordinates of the last point.
 * @returns {number[][][]}
 */
export function contour(values, size, level, low, high) {
  const step = low.map((l, i) => (high[i] - l) / (size - 1));
  const place = (i, j) => [low[0] + i * step[0], low[1] + j * step[1]];
  const pieces = [];
  for (let i = 0; i + 1 < size; i++) {
    for (let j = 0; j + 1 < size; j++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const heights = corners.map(([a, b]) => values[a * size + b] - level);
      const points = corners.map(([a, b]) => place(a, b));
      pieces.push(...crossCell(points, heights));
    }
  }
  return pieces;
}

/** Returns the pieces within a cell, between the edges that change sign. */
function crossCell(points, heights) {
  const crossings = [];
  for (let k = 0; k < 4; k++) {
    const [a, b] = [heights[k], heights[(k + 1) % 4]];
    if (a > 0 === b > 0) continue;
    const t = a / (a - b);
    const [p, q] = [points[k], points[(k + 1) % 4]];
    crossings.push([p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])]);
  }
  if (crossings.length === 4) {
    return [crossings.slice(0, 2), crossings.slice(2)];
  }
  return crossings.length === 2 ? [crossings] : [];
}

/**
 * Returns the outline of a normal at two standard deviations.
 * @param {number[]} mean Two coordinates.
 * @param {number[][]} covariance Two by two.
 * @returns {number[][]} Points around it.
 */
export function ellipse(mean, [[a, b], [, c]]) {
  const first = Math.sqrt(Math.max(a, 0));
  const below = first > 0 ? b / first : 0;
  const second = Math.sqrt(Math.max(c - below * below, 0));
  return Array.from({ length: 73 }, (_, k) => {
    const angle = (k * Math.PI) / 36;
    const [x, y] = [2 * Math.cos(angle), 2 * Math.sin(angle)];
    return [mean[0] + first * x, mean[1] + below * x + second * y];
  });
}
