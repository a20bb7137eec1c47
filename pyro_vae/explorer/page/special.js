/** Special functions, and random numbers from a seed. */

export const LOG_2_PI = Math.log(2 * Math.PI);

/** @returns {number} 1 / (1 + e^-x). */
export function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

/** @returns {number} log(1 + e^x), without overflow. */
export function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** @returns {number} The error function, to 2e-7 (Abramowitz, Stegun 7.1.26). */
export function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const terms = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const sum = terms.reduce((total, term) => (total + term) * t, 0);
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

/** @returns {number} log Gamma(x) for x > 0 (Lanczos). */
export function logGamma(x) {
  const terms = [
    676.5203681218851, -1259.1392167224028, 771.3234287776531,
    -176.6150291621406, 12.507343278686905, -0.13857109526572012,
    9.984369578019572e-6, 1.5056327351493116e-7,
  ];
  if (x < 0.5) return logGamma(x + 1) - Math.log(x);
  const base = x - 1;
  const sum = terms.reduce(
    (total, term, i) => total + term / (base + i + 1), 0.9999999999998099,
  );
  const t = base + 7.5;
  return 0.5 * LOG_2_PI + (base + 0.5) * Math.log(t) - t + Math.log(sum);
}

/** @returns {number} The log of a sum of exponentials. */
export function logSumExp(values) {
  const top = Math.max(...values);
  if (top === -Infinity) return top;
  return top + Math.log(values.reduce((sum, v) => sum + Math.exp(v - top), 0));
}

/** Random numbers that are the same for the same seed (mulberry32). */
export class Random {
  /** @param {number} seed */
  constructor(seed) {
    this.state = seed >>> 0;
  }

  /** @returns {number} A uniform number in (0, 1). */
  uniform() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  }

  /** @returns {number} A standard normal number (Box and Muller). */
  normal() {
    const radius = Math.sqrt(-2 * Math.log(this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** @returns {number} A Laplace number of scale 1. */
  laplace() {
    const u = this.uniform() - 0.5;
    return -Math.sign(u) * Math.log1p(-2 * Math.abs(u));
  }
}
