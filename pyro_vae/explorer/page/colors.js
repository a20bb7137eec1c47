/** Colors that color-blind people can tell apart, and the page's own. */

/**
 * Ten colors by M. A. Petroff ("Accessible color sequences for data
 * visualization", 2021), brightened a little where the page is dark.
 */
const LIGHT = [
  "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
  "#a96b59", "#e76300", "#a39751", "#5c6570", "#4fbcc9",
];
const DARK = [
  "#5aa9f0", "#ffb733", "#f0503a", "#a9b8b6", "#b571e3",
  "#c98d7b", "#ff8a3d", "#cfc370", "#8d99a8", "#92dadd",
];

/** @returns {boolean} Whether the page is dark. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** @returns {string} The color of a label; after ten they come again. */
export function labelColor(number) {
  return (isDark() ? DARK : LIGHT)[number % LIGHT.length];
}

/** @returns {string} One of the page's own colors, as style.css has them. */
export function pageColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * Returns the dot of a label, to be drawn many times: a disk for the first ten
 * labels, a ring for the next ten, a square for those after.
 */
export function makeDot(number, radius, ratio) {
  const canvas = document.createElement("canvas");
  const side = 2 * Math.ceil((radius + 1) * ratio);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.fillStyle = context.strokeStyle = labelColor(number);
  const r = radius * ratio;
  context.lineWidth = 0.7 * r;
  context.beginPath();
  if (number < 20) context.arc(side / 2, side / 2, number < 10 ? r : 0.75 * r, 0, 7);
  else context.rect(side / 2 - r, side / 2 - r, 2 * r, 2 * r);
  if (number >= 10 && number < 20) context.stroke();
  else context.fill();
  return canvas;
}
