/** KL(q, p), where it has a closed form. */
import { LOG_2_PI, erf } from "./special.js";

/**
 * Returns KL(q, p) in nats, or null where it has no closed form here.
 *
 * Of two mixtures it is that of component and latent together, as the
 * package's ELBO has it.
 */
export function closedFormKl(q, p) {
  if (p.kind === "normal" && q.kind === "full-normal") return normalKl(q, p);
  if (q.kind === "mixture" && p.kind === "mixture") return mixtureKl(q, p);
  const kl = PAIRS[`${q.kind} ${p.kind}`];
  if (!kl) return null;
  return q.loc.reduce(
    (sum, loc, i) => sum + kl(loc - p.loc[i], q.scale[i], p.scale[i]), 0,
  );
}

/** By the distance of the locations, the scale of q and the scale of p. */
const PAIRS = {
  "normal normal": (d, s, t) =>
    Math.log(t / s) + (s * s + d * d) / (2 * t * t) - 0.5,
  "laplace laplace": (d, b, c) =>
    Math.log(c / b) + (b * Math.exp(-Math.abs(d) / b) + Math.abs(d)) / c - 1,
  "laplace normal": (d, b, t) =>
    0.5 * LOG_2_PI + Math.log(t) + (2 * b * b + d * d) / (2 * t * t) -
    1 - Math.log(2 * b),
  "normal laplace": (d, s, c) => {
    const near = s * Math.sqrt(2 / Math.PI) * Math.exp((-d * d) / (2 * s * s));
    const distance = near + d * erf(d / (s * Math.SQRT2));
    return Math.log(2 * c) + distance / c - 0.5 * (LOG_2_PI + 1) - Math.log(s);
  },
};

function normalKl(q, p) {
  const [{ covariance }] = q.normals();
  return q.loc.reduce((sum, loc, i) => {
    const t = p.scale[i];
    const squares = covariance[i][i] + (loc - p.loc[i]) ** 2;
    return sum + Math.log(t / q.tril[i][i]) + squares / (2 * t * t) - 0.5;
  }, 0);
}

function mixtureKl(q, p) {
  if (q.parts.length !== p.parts.length) return null;
  return q.parts.reduce((sum, part, k) => {
    const within = closedFormKl(part, p.parts[k]);
    const between = q.logWeights[k] - p.logWeights[k];
    return sum + Math.exp(q.logWeights[k]) * (between + within);
  }, 0);
}
