/** Images on canvases. */

/**
 * Paints an image, one pixel of the canvas for each of its own.
 * @param {HTMLCanvasElement} canvas
 * @param {ArrayLike<number>} image Values in [0, 1].
 * @param {number[]} shape Channels, if there are any, height and width.
 */
export function paint(canvas, image, shape) {
  const [height, width] = shape.slice(-2);
  const channels = shape.length > 2 ? shape[0] : 1;
  if (canvas.width !== width || canvas.height !== height) {
    Object.assign(canvas, { width, height });
  }
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  for (let place = 0; place < height * width; place++) {
    for (let c = 0; c < 3; c++) {
      const value = image[Math.min(c, channels - 1) * height * width + place];
      data.data[4 * place + c] = 255 * value;
    }
    data.data[4 * place + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

/** @returns {HTMLCanvasElement} A new canvas with an image. */
export function makePicture(image, shape) {
  const canvas = document.createElement("canvas");
  canvas.className = "picture";
  paint(canvas, image, shape);
  return canvas;
}
