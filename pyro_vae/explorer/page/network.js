/** Networks: the layers that the package's encoders and decoders are made of. */
import { erf, sigmoid, softplus } from "./special.js";

const ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  tanh: Math.tanh,
  softplus,
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  silu: (x) => x * sigmoid(x),
  sigmoid,
};

/** A feed-forward network. */
export class Network {
  /**
   * @param {object[]} layers What the package wrote of the layers.
   * @param {Arrays} arrays Where their weights are.
   */
  constructor(layers, arrays) {
    this.layers = layers.map((layer) => readLayer(layer, arrays));
  }

  /**
   * Maps one input to its output.
   * @param {Float32Array|number[]} input
   * @returns {Float32Array}
   */
  run(input) {
    let values = Float32Array.from(input);
    let shape = [values.length];
    for (const layer of this.layers) {
      [values, shape] = runLayer(layer, values, shape);
    }
    return values;
  }
}

function readLayer(layer, arrays) {
  if (!layer.weight) return layer;
  return {
    ...layer,
    shape: layer.weight.shape,
    weight: arrays.floats(layer.weight),
    bias: layer.bias ? arrays.floats(layer.bias) : null,
  };
}

/** Returns a layer's output, and its shape: [size] or [channels, h, w]. */
function runLayer(layer, values, shape) {
  switch (layer.kind) {
    case "linear":
      return [linear(layer, values), [layer.shape[0]]];
    case "convolution":
      return convolve(layer, values, shape);
    case "transposed":
      return transposed(layer, values, shape);
    case "unflatten":
      return [values, layer.shape];
    case "flatten":
      return [values, [values.length]];
    default:
      return [values.map(ACTIVATIONS[layer.kind]), shape];
  }
}

/** Returns W x + b. */
export function linear({ weight, bias, shape }, input) {
  const [rows, columns] = shape;
  const output = new Float32Array(rows);
  for (let row = 0, place = 0; row < rows; row++) {
    let sum = bias ? bias[row] : 0;
    for (let column = 0; column < columns; column++) {
      sum += weight[place++] * input[column];
    }
    output[row] = sum;
  }
  return output;
}

/** Returns a convolution's output, and its shape. */
function convolve({ weight, bias, shape, stride, padding }, input, size) {
  const [channels, , side] = shape;
  const [before, height, width] = size;
  const h = Math.floor((height + 2 * padding - side) / stride) + 1;
  const w = Math.floor((width + 2 * padding - side) / stride) + 1;
  const output = new Float32Array(channels * h * w);
  const dot = (channel, row, column) => {
    let sum = bias ? bias[channel] : 0;
    for (let c = 0; c < before; c++) {
      const kernel = (channel * before + c) * side * side;
      for (let i = 0; i < side; i++) {
        const y = row * stride + i - padding;
        if (y < 0 || y >= height) continue;
        for (let j = 0; j < side; j++) {
          const x = column * stride + j - padding;
          if (x < 0 || x >= width) continue;
          sum += weight[kernel + i * side + j] * input[(c * height + y) * width + x];
        }
      }
    }
    return sum;
  };
  for (let place = 0; place < output.length; place++) {
    const row = Math.floor(place / w);
    output[place] = dot(Math.floor(row / h), row % h, place % w);
  }
  return [output, [channels, h, w]];
}

/** Returns a transposed convolution's output, and its shape. */
function transposed({ weight, bias, shape, stride, padding }, input, size) {
  const [before, channels, side] = shape;
  const [, height, width] = size;
  const h = (height - 1) * stride - 2 * padding + side;
  const w = (width - 1) * stride - 2 * padding + side;
  const output = new Float32Array(channels * h * w);
  if (bias) bias.forEach((b, c) => output.fill(b, c * h * w, (c + 1) * h * w));
  const spread = (value, kernel, target, top, left) => {
    for (let i = 0; i < side; i++) {
      const y = top + i;
      if (y < 0 || y >= h) continue;
      for (let j = 0; j < side; j++) {
        const x = left + j;
        if (x < 0 || x >= w) continue;
        output[target + y * w + x] += value * weight[kernel + i * side + j];
      }
    }
  };
  for (let place = 0; place < input.length; place++) {
    if (input[place] === 0) continue;
    const row = Math.floor(place / width);
    const top = (row % height) * stride - padding;
    const left = (place % width) * stride - padding;
    const c = Math.floor(row / height);
    for (let channel = 0; channel < channels; channel++) {
      const kernel = (c * channels + channel) * side * side;
      spread(input[place], kernel, channel * h * w, top, left);
    }
  }
  return [output, [channels, h, w]];
}
