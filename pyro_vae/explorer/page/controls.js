/** The buttons around the map, and the keys that work everywhere. */
import { isDark } from "./colors.js";

const KEYS = { p: "density", m: "manifold" };

/**
 * Joins the page's buttons and keys to the explorer.
 * @param {Explorer} explorer
 */
export function bindButtons(explorer) {
  const find = (id) => document.getElementById(id);
  for (const button of document.querySelectorAll("[data-look]")) {
    button.onclick = () => toggleLook(explorer, button.dataset.look);
  }
  find("zoom-in").onclick = () => zoom(explorer, 1.4);
  find("zoom-out").onclick = () => zoom(explorer, 1 / 1.4);
  find("home").onclick = () => explorer.maps.forEach((map) => map.home());
  find("clear").onclick = () => explorer.pad.clear();
  find("theme").onclick = () => changeTheme(explorer);
  find("help-button").onclick = () => find("help").showModal();
  find("close").onclick = () => find("help").close();
  document.addEventListener("keydown", (event) => pressKey(explorer, event));
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => recolor(explorer));
}

/** Turns one of the map's looks on or off. */
function toggleLook(explorer, name) {
  const { look } = explorer;
  look[name] = !look[name];
  const button = document.querySelector(`[data-look="${name}"]`);
  button.setAttribute("aria-pressed", `${look[name]}`);
  for (const map of explorer.maps) {
    map.canvas.parentElement.classList.toggle("moving", look.pan);
    map.draw();
  }
}

function zoom(explorer, factor) {
  for (const { view } of explorer.maps) {
    view.zoom(factor, [view.width / 2, view.height / 2]);
  }
  explorer.maps.forEach((map) => map.draw());
}

function changeTheme(explorer) {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  recolor(explorer);
}

function recolor(explorer) {
  explorer.maps.forEach((map) => map.recolor());
  explorer.fillLegend();
  explorer.pad.redraw();
}

/** Does what a key means wherever the focus is. */
function pressKey(explorer, event) {
  const isTyped = event.ctrlKey || event.metaKey || event.altKey;
  if (isTyped || document.getElementById("help").open) return;
  const key = event.key.toLowerCase();
  if (KEYS[key]) toggleLook(explorer, KEYS[key]);
  else if (key === "0") explorer.maps.forEach((map) => map.home());
  else if (key === "t") changeTheme(explorer);
  else if (key === "?") document.getElementById("help").showModal();
  else if (key === "r") nextRun();
}

function nextRun() {
  const buttons = [...document.getElementById("runs").children];
  const place = buttons.findIndex((b) => b.getAttribute("aria-pressed") === "true");
  buttons[(place + 1) % buttons.length].click();
}
