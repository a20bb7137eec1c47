/** Affine couplings: the steps of the package's normalizing flows. */
import { linear } from "./network.js";

const LOWEST = -5; // of a log-scale, as Pyro holds them
const HIGHEST = 3;

/** A stack of affine couplings, the dimensions reversed between two. */
export class Couplings {
  /**
   * @param {object} words What the package wrote of them.
   * @param {Arrays} arrays Where their weights are.
   * @param {number[]} context What all of them depend on.
   */
  constructor(words, arrays, context = []) {
    this.split = words.split;
    this.context = context;
    this.networks = words.networks.map((layers) =>
      layers.map(({ weight, bias }) => ({
        shape: weight.shape,
        weight: arrays.floats(weight),
        bias: arrays.floats(bias),
      })),
    );
  }

  /** @returns {Couplings} The same ones with another context. */
  given(context) {
    return Object.assign(Object.create(Couplings.prototype), this, { context });
  }

  /** @returns {number[]} The latent that a base draw becomes. */
  apply(noise) {
    let z = [...noise];
    this.networks.forEach((network, number) => {
      if (number) z.reverse();
      const { shift, logScale } = this.move(network, z);
      const moved = shift.map((m, i) => m + Math.exp(logScale[i]) * z[this.split + i]);
      z = [...z.slice(0, this.split), ...moved];
    });
    return z;
  }

  /** @returns {Array} The base draw behind a latent, and the log-volume. */
  invert(latent) {
    let z = [...latent];
    let logVolume = 0;
    [...this.networks].reverse().forEach((network, number) => {
      if (number) z.reverse();
      const { shift, logScale } = this.move(network, z);
      const moved = shift.map((m, i) => (z[this.split + i] - m) / Math.exp(logScale[i]));
      z = [...z.slice(0, this.split), ...moved];
      logVolume += logScale.reduce((sum, s) => sum + s, 0);
    });
    return [z, logVolume];
  }

  /** Returns what a coupling's network makes of the first dimensions. */
  move(network, z) {
    let values = Float32Array.from([...this.context, ...z.slice(0, this.split)]);
    network.forEach((layer, number) => {
      if (number) values = values.map((v) => Math.max(v, 0));
      values = linear(layer, values);
    });
    const numbers = Array.from(values);
    const half = numbers.length / 2;
    const clamp = (s) => Math.min(HIGHEST, Math.max(LOWEST, s));
    return { shift: numbers.slice(0, half), logScale: numbers.slice(half).map(clamp) };
  }
}
