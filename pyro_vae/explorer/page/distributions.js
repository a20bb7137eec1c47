/** Distributions of z: priors, and the families of the guides. */
import { LOG_2_PI, Random, logGamma, logSumExp, softplus } from "./special.js";

const MOMENT_DRAWS = 512;

const LOG_DENSITIES = {
  normal: (e) => -0.5 * (e * e + LOG_2_PI),
  laplace: (e) => -Math.abs(e) - Math.LN2,
  logistic: (e) => -e - 2 * softplus(-e),
  "student-t": (e, df) =>
    logGamma((df + 1) / 2) - logGamma(df / 2) - 0.5 * Math.log(df * Math.PI) -
    ((df + 1) / 2) * Math.log1p((e * e) / df),
};
const VARIANCES = { normal: 1, laplace: 2, logistic: Math.PI ** 2 / 3 };

/** Independent dimensions, each of a location and a scale. */
export class Independent {
  constructor({ kind, loc, scale, df }) {
    Object.assign(this, { kind, loc, scale, df });
  }

  /** @returns {number} The log-density at z, in nats. */
  logDensity(z) {
    const log = LOG_DENSITIES[this.kind];
    return this.loc.reduce((sum, loc, p) => {
      const scale = this.scale[p];
      return sum + log((z[p] - loc) / scale, this.df?.[p]) - Math.log(scale);
    }, 0);
  }

  /** @returns {number[]} A draw of z, from a normal or a Laplace. */
  draw(random) {
    return this.loc.map((loc, p) => loc + this.scale[p] * random[this.kind]());
  }

  /** @returns {number[]} The point that stands for the distribution. */
  center() {
    return this.loc;
  }

  /** @returns {object[]} Normals of the same moments, with their weights. */
  normals() {
    const covariance = this.loc.map((_, p) =>
      this.loc.map((_, i) => (i === p ? VARIANCES[this.kind] * this.scale[p] ** 2 : 0)),
    );
    return [{ weight: 1, mean: this.loc, covariance }];
  }
}

/** A normal with the Cholesky factor of its covariance. */
export class FullNormal {
  constructor({ loc, tril }) {
    Object.assign(this, { kind: "full-normal", loc, tril });
  }

  logDensity(z) {
    let total = 0;
    const solved = [];
    this.tril.forEach((row, p) => {
      const below = solved.reduce((sum, e, i) => sum + row[i] * e, 0);
      solved.push((z[p] - this.loc[p] - below) / row[p]);
      total -= 0.5 * (solved[p] ** 2 + LOG_2_PI) + Math.log(row[p]);
    });
    return total;
  }

  draw(random) {
    const noise = this.loc.map(() => random.normal());
    return this.loc.map((loc, p) => loc + dot(this.tril[p], noise));
  }

  center() {
    return this.loc;
  }

  normals() {
    const covariance = this.tril.map((row) => this.tril.map((other) => dot(row, other)));
    return [{ weight: 1, mean: this.loc, covariance }];
  }
}

/** A mixture of distributions. */
export class Mixture {
  constructor(logWeights, parts) {
    Object.assign(this, { kind: "mixture", logWeights, parts });
  }

  logDensity(z) {
    return logSumExp(this.parts.map((part, k) => this.logWeights[k] + part.logDensity(z)));
  }

  draw(random) {
    let left = random.uniform();
    let k = 0;
    while (k < this.parts.length - 1) {
      left -= Math.exp(this.logWeights[k]);
      if (left < 0) break;
      k += 1;
    }
    return this.parts[k].draw(random);
  }

  center() {
    const best = this.logWeights.indexOf(Math.max(...this.logWeights));
    return this.parts[best].center();
  }

  normals() {
    return this.parts.flatMap((part, k) => {
      const weight = Math.exp(this.logWeights[k]);
      return part.normals().map((normal) => ({ ...normal, weight: weight * normal.weight }));
    });
  }
}

/** A base distribution pushed through affine couplings. */
export class Flow {
  constructor(base, couplings) {
    Object.assign(this, { kind: "flow", base, couplings });
  }

  logDensity(z) {
    const [noise, logVolume] = this.couplings.invert(z);
    return this.base.logDensity(noise) - logVolume;
  }

  draw(random) {
    return this.couplings.apply(this.base.draw(random));
  }

  center() {
    return this.couplings.apply(this.base.center());
  }

  normals() {
    const random = new Random(0);
    const draws = Array.from({ length: MOMENT_DRAWS }, () => this.draw(random));
    const average = (f) => draws.reduce((sum, z) => sum + f(z), 0) / draws.length;
    const mean = draws[0].map((_, p) => average((z) => z[p]));
    const covariance = mean.map((a, i) =>
      mean.map((b, j) => average((z) => (z[i] - a) * (z[j] - b))),
    );
    return [{ weight: 1, mean, covariance }];
  }
}

/** @returns {object} The distribution behind the package's words on it. */
export function readDistribution(words, readCouplings) {
  switch (words.kind) {
    case "full-normal":
      return new FullNormal(words);
    case "mixture":
      return new Mixture(
        words.log_weights,
        words.parts.map((part) => readDistribution(part, readCouplings)),
      );
    case "flow": {
      const base = readDistribution(words.base, readCouplings);
      return new Flow(base, readCouplings(words.couplings));
    }
    default:
      return new Independent(words);
  }
}

function dot(a, b) {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}
