/** The cards beside the map: an image, its numbers, and the ways to it. */
import { labelColor, makeDot } from "./colors.js";
import { drawChosen } from "./marks.js";
import { makePicture } from "./pictures.js";
import { View } from "./view.js";

const CLOSE_UP = 260; // pixels of its canvas

/** @returns {HTMLElement} An element with attributes and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** @returns {string} A number with a proper minus. */
export function show(value, digits = 2) {
  return value.toFixed(digits).replace("-", "−");
}

/** Returns a picture with a line under it. */
function figure(image, shape, words) {
  return element("figure", {}, makePicture(image, shape), element("small", {}, words));
}

/**
 * Returns what a run says of an image: pictures, numbers and the gap.
 * @param {object} found What the run made of the image.
 * @param {boolean} isNamed Whether the run's name stands above.
 * @param {number} widest The widest gap of the runs that are shown, in nats.
 */
export function makeBlock(found, isNamed, widest) {
  const { run, image, mean } = found;
  const { shape } = run.dataset;
  const block = element("div", { className: "block" });
  if (isNamed) block.append(element("h3", {}, run.name));
  block.append(figure(image, shape, "image"));
  if (mean) block.append(figure(mean, shape, "reconstruction"));
  if (found.chosen?.q && run.dim < 3) block.append(makeCloseUp(found));
  block.append(makeNumbers(found));
  if (found.answer) block.append(makeBar(found.answer, widest));
  for (const note of found.notes) {
    block.append(element("p", { className: "note quiet" }, note));
  }
  return block;
}

/** Returns a small map of nothing but q and the posterior. */
function makeCloseUp({ run, chosen }) {
  const canvas = element("canvas", { width: CLOSE_UP, height: CLOSE_UP, className: "close-up" });
  const view = new View(run.isLine);
  view.resize(CLOSE_UP, CLOSE_UP);
  const ends = chosen.q.normals().flatMap(({ mean, covariance }) =>
    [-2.2, 2.2].map((sign) => mean.map((m, i) => m + sign * Math.sqrt(covariance[i][i]))),
  );
  const corners = chosen.posterior ? [chosen.posterior.words.low, chosen.posterior.words.high] : [];
  const along = (i) => [...ends, ...corners].map((place) => place[i] ?? 0);
  const corner = (choose) => [choose(...along(0)), choose(...along(1))];
  view.fit(corner(Math.min), corner(Math.max));
  const context = canvas.getContext("2d");
  if (run.isLine) view.y = -1;
  drawChosen(context, view, run, chosen);
  return element("figure", {}, canvas, element("small", {}, "close-up"));
}

function makeNumbers({ answer, elbo }) {
  const list = element("dl");
  const row = (name, value, kind = "") =>
    list.append(element("dt", {}, ...[name].flat()), element("dd", { className: kind }, value));
  if (answer) {
    row(answer.method, show(answer.log_p), "main");
    row([swatch("approximation"), "approximation"], show(answer.approximation));
    row("ELBO", show(answer.elbo), "main");
    row([swatch("amortization"), "amortization"], show(answer.amortization));
    row("gap", show(answer.log_p - answer.elbo));
    row("nats; ELBO's error", `± ${show(answer.elbo_error)}`);
  } else if (elbo) {
    row("ELBO", show(elbo.value, 1), "main");
    row("nats; error", `± ${show(elbo.error, 1)}`);
    row("KL", elbo.isClosed ? "in closed form" : "by 64 samples");
  }
  return list;
}

function swatch(kind) {
  return element("span", { className: `swatch ${kind}` });
}

function makeBar({ approximation, amortization }, widest) {
  const part = (kind, value) =>
    element("i", {
      className: kind,
      style: `width: ${(100 * Math.max(value, 0)) / Math.max(widest, 1e-9)}%`,
      title: `${kind}: ${show(value)} nats`,
    });
  return element(
    "div", { className: "bar" },
    part("approximation", approximation), part("amortization", amortization),
  );
}

/**
 * Fills the legend, whose buttons hide labels.
 * @param {(number: number) => void} onToggle
 */
export function fillLegend(legend, dataset, hidden, onToggle) {
  const isMany = dataset.names.length > 1;
  legend.replaceChildren(
    ...dataset.names.map((name, number) =>
      element(
        "button",
        {
          "aria-pressed": `${!hidden.has(number)}`,
          title: isMany ? "Click to hide; double-click to show it alone" : "",
          onclick: () => onToggle(number, false),
          ondblclick: () => onToggle(number, true),
        },
        makeDot(number, 5, 2),
        name,
      ),
    ),
  );
}

/** Fills the strip of prepared images, a button for each. */
export function fillStrip(strip, dataset, onChoose) {
  strip.replaceChildren(
    ...dataset.words.prepared.map((index) =>
      element(
        "button",
        {
          "data-index": index,
          "aria-pressed": "false",
          title: dataset.words.has_labels ? `a ${dataset.nameOf(index)}` : `image ${index}`,
          onclick: () => onChoose(index),
        },
        makePicture(dataset.image(index), dataset.shape),
      ),
    ),
  );
}

/** Fills the gallery of a discrete run's states, a button for each. */
export function fillGallery(gallery, run, onChoose) {
  const { states } = run.words;
  const values = run.arrays.floats(states.images);
  const size = values.length / states.counts.length;
  gallery.replaceChildren(
    ...states.counts.map((count, place) => {
      const image = values.slice(place * size, (place + 1) * size).map((v) => v / 255);
      return element(
        "button",
        {
          "aria-pressed": "false",
          title: `state ${states.numbers[place]}, ${count} test images`,
          onclick: () => onChoose(place),
        },
        makePicture(image, run.dataset.shape),
        `#${states.numbers[place]} · ${count}`,
        makeShares(states.labels[place], count),
      );
    }),
  );
}

/** Returns a bar of the labels of a state's images. */
function makeShares(counts, total) {
  const parts = counts.map((count, label) =>
    element("i", { style: `width:${(100 * count) / total}%;background:${labelColor(label)}` }),
  );
  return element("div", { className: "shares" }, ...parts);
}
