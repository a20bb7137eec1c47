/** What gestures and keys on a map do. */

const MOVES = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};
const ZOOM = 1.25; // of a key

/**
 * Returns the functions that `listen` calls.
 * @param {Explorer} explorer
 * @param {LatentMap} map
 */
export function steer(explorer, map) {
  const plane = (pixel) => map.view.toPlane(pixel);
  return {
    hover: (pixel) => explorer.pointAt(map, pixel),
    leave: () => {},
    tap: (pixel) => pick(explorer, map, pixel),
    drag: (from, to) => {
      explorer.walk.stop();
      map.path = { from: plane(from), to: plane(to) };
      explorer.pointAt(map, to);
    },
    drop: (from, to) => explorer.walk.play(map, plane(from), plane(to)),
    pan: (dx, dy) => {
      map.view.pan(dx, dy);
      map.draw();
    },
    zoom: (factor, pixel) => zoomAt(map, factor, pixel),
    key: (key, step) => press(explorer, map, key, step),
  };
}

/** Chooses the image whose point is nearest to a pixel. */
function pick(explorer, map, pixel, reach) {
  const index = map.nearest(pixel, reach);
  if (index !== null) explorer.choose(index);
}

function zoomAt(map, factor, pixel) {
  map.view.zoom(factor, pixel);
  map.draw();
}

/** Does what a key on a map means; returns whether it means anything. */
function press(explorer, map, key, step) {
  const middle = [map.view.width / 2, map.view.height / 2];
  const pixel = map.cursor ? map.cursorPixel() : middle;
  const actions = {
    Enter: () => pick(explorer, map, pixel, Infinity),
    " ": () => pick(explorer, map, pixel, Infinity),
    a: () => (map.start = map.view.toPlane(pixel)),
    b: () => map.start && explorer.walk.play(map, map.start, map.view.toPlane(pixel)),
    "+": () => zoomAt(map, ZOOM, pixel),
    "=": () => zoomAt(map, ZOOM, pixel),
    "-": () => zoomAt(map, 1 / ZOOM, pixel),
  };
  const move = MOVES[key];
  if (move) explorer.pointAt(map, pixel.map((v, i) => v + step * move[i]));
  const action = actions[key.length === 1 ? key.toLowerCase() : key];
  action?.();
  return Boolean(move || action);
}
