/** A VAE that runs in the page. */
import { Couplings } from "./couplings.js";
import { Flow, FullNormal, Independent, Mixture, readDistribution } from "./distributions.js";
import { closedFormKl } from "./kl.js";
import { Network } from "./network.js";
import { LOG_2_PI, Random, logSumExp, sigmoid, softplus } from "./special.js";

const NUM_SAMPLES = 64;
const SERIES_BELOW = 0.1; // the logit below which a Taylor series is used

/** The families of the guides, from the encoder's output. */
const FAMILIES = {
  normal: (values, { min_scale }) => locationScale("normal", values, min_scale),
  laplace: (values, { min_scale }) => locationScale("laplace", values, min_scale),
  "full-normal": fullNormal,
  mixture,
  flow(values, { min_scale, latentDim, couplings }) {
    const base = locationScale("normal", values.slice(0, 2 * latentDim), min_scale);
    return new Flow(base, couplings.given(values.slice(2 * latentDim)));
  },
};

/** The mean of a pixel, from the decoder's output. */
const MEANS = {
  gaussian: (f) => f,
  bernoulli: sigmoid,
  "continuous-bernoulli": (f) =>
    Math.abs(f) < SERIES_BELOW
      ? 0.5 + f * (1 / 12 - f ** 2 / 720 + f ** 4 / 30240)
      : -1 / Math.expm1(-f) - 1 / f,
};

/** The log-density of a pixel x, from the decoder's output and a scale. */
const LOG_DENSITIES_OF_PIXELS = {
  gaussian: (x, f, s) => -0.5 * (((x - f) / s) ** 2 + LOG_2_PI) - Math.log(s),
  bernoulli: (x, f) => x * f - softplus(f),
  "continuous-bernoulli": (x, f) => x * f - softplus(f) + logNormalizer(f),
};

/** A prior, a likelihood and a guide, as far as the page has code for them. */
export class Model {
  /**
   * @param {object} words What the package wrote of a run.
   * @param {Arrays} arrays Where the weights are.
   */
  constructor(words, arrays) {
    const read = (couplings) => new Couplings(couplings, arrays);
    this.likelihood = words.likelihood;
    this.decoder = new Network(words.likelihood.decoder, arrays);
    const { scale } = words.likelihood;
    this.scale = scale ? arrays.floats(scale) : null;
    this.prior = words.prior && readDistribution(words.prior, read);
    this.encoder = words.guide && new Network(words.guide.encoder, arrays);
    this.guide = words.guide && { ...words.guide, latentDim: words.latent_dim };
    if (this.guide?.couplings) this.guide.couplings = read(this.guide.couplings);
  }

  /** @returns {Float32Array} The mean image at a latent. */
  decode(z) {
    return this.decoder.run(z).map((f) => MEANS[this.likelihood.kind](f));
  }

  /** @returns {object|null} q(z | x), or null where there is no encoder. */
  infer(x) {
    if (!this.encoder) return null;
    const values = Array.from(this.encoder.run(x));
    return FAMILIES[this.guide.kind](values, this.guide);
  }

  /** @returns {number} log p(x | z), in nats. */
  logLikelihood(x, z) {
    const log = LOG_DENSITIES_OF_PIXELS[this.likelihood.kind];
    const output = this.decoder.run(z);
    const scale = this.scale ?? [1];
    let total = 0;
    for (let d = 0; d < x.length; d++) {
      total += log(x[d], output[d], scale[d % scale.length]);
    }
    return total;
  }

  /**
   * Estimates an image's ELBO by samples from a fixed seed.
   * @returns {{value: number, error: number, isClosed: boolean}|null} In nats;
   *   whether the KL is in closed form. Null where there is no prior.
   */
  elbo(x, q) {
    if (!this.prior || !q) return null;
    const kl = closedFormKl(q, this.prior);
    const random = new Random(0);
    const values = Array.from({ length: NUM_SAMPLES }, () => {
      const z = q.draw(random);
      const loss = kl ?? q.logDensity(z) - this.prior.logDensity(z);
      return this.logLikelihood(x, z) - loss;
    });
    const value = values.reduce((sum, v) => sum + v, 0) / NUM_SAMPLES;
    const squares = values.reduce((sum, v) => sum + (v - value) ** 2, 0);
    const error = Math.sqrt(squares / (NUM_SAMPLES - 1) / NUM_SAMPLES);
    return { value, error, isClosed: kl !== null };
  }
}

function locationScale(kind, values, minScale) {
  const half = values.length / 2;
  const scale = values.slice(half).map((v) => minScale + softplus(v));
  return new Independent({ kind, loc: values.slice(0, half), scale });
}

function fullNormal(values, { min_scale, latentDim }) {
  const { loc, scale } = locationScale("normal", values.slice(0, 2 * latentDim), min_scale);
  let place = 2 * latentDim;
  const tril = loc.map((_, row) =>
    loc.map((_, column) => {
      if (column === row) return scale[row];
      return column < row ? values[place++] : 0;
    }),
  );
  return new FullNormal({ loc, tril });
}

function mixture(values, { min_scale, num_components }) {
  const size = values.length / num_components;
  const rows = Array.from({ length: num_components }, (_, k) =>
    values.slice(k * size, (k + 1) * size),
  );
  const total = logSumExp(rows.map((row) => row[0]));
  return new Mixture(
    rows.map((row) => row[0] - total),
    rows.map((row) => locationScale("normal", row.slice(1), min_scale)),
  );
}

/** Returns log C of the continuous Bernoulli, as the package has it. */
function logNormalizer(f) {
  if (Math.abs(f) < SERIES_BELOW) {
    const square = f * f;
    return Math.LN2 + square * (1 / 12 - square * (7 / 1440 - (square * 31) / 90720));
  }
  return Math.log(f / Math.tanh(f / 2));
}
