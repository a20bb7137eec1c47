/** Images on canvases. */

/**
 * Paints an image, one pixel of the canvas for each of its own.
 * @param {HTMLCanvasElement} canvas
 * @param {ArrayLike<number>} image Values in [0, 1].
 * @param {number[]} shape Height, width, and channels if there are any.
 */
export function paint(canvas, image, shape) {
  const [height, width, channels = 1] = shape;
  if (canvas.width !== width || canvas.height !== height) {
    Object.assign(canvas, { width, height });
  }
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  for (let place = 0; place < height * width; place++) {
    for (let c = 0; c < 3; c++) {
      const value = image[place * channels + Math.min(c, channels - 1)];
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
