/** A pad to draw a figure on, with mouse, pen or finger. */
import { pageColor } from "./colors.js";

const PEN = 0.075; // of the pad's side

/**
 * Lets a canvas be drawn on.
 * @param {HTMLCanvasElement} canvas
 * @param {(strokes: number[][][]) => void} onChange Called with all strokes.
 * @returns {{clear: () => void, redraw: () => void}}
 */
export function makePad(canvas, onChange) {
  const strokes = [];
  let isDown = false;
  const redraw = () => drawStrokes(canvas, strokes);
  const add = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    strokes.at(-1).push([x, y * (box.height / box.width)]);
    redraw();
    onChange(strokes);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    isDown = true;
    strokes.push([]);
    add(event);
  });
  canvas.addEventListener("pointermove", (event) => isDown && add(event));
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => (isDown = false));
  }
  const clear = () => {
    strokes.length = 0;
    redraw();
    onChange(strokes);
  };
  redraw();
  return { clear, redraw };
}

function drawStrokes(canvas, strokes) {
  const context = canvas.getContext("2d");
  const side = canvas.width;
  context.clearRect(0, 0, side, canvas.height);
  context.strokeStyle = context.fillStyle = pageColor("pen");
  context.lineWidth = PEN * side;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y], k) => {
      if (k) context.lineTo(x * side, y * side);
      else context.moveTo(x * side, y * side);
    });
    if (stroke.length === 1) context.lineTo(stroke[0][0] * side + 0.1, stroke[0][1] * side);
    context.stroke();
  }
}
