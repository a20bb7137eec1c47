/** The page: reads its runs, and joins the maps, the cards and the pad. */
import { Arrays } from "./arrays.js";
import { element, fillGallery, fillLegend, fillStrip, makeBlock, show } from "./cards.js";
import { bindButtons } from "./controls.js";
import { readDistribution } from "./distributions.js";
import { drawFigure } from "./figure.js";
import { listen } from "./gestures.js";
import { LatentMap } from "./map.js";
import { Posterior } from "./marks.js";
import { makePad } from "./pad.js";
import { makePicture, paint } from "./pictures.js";
import { Dataset, Run } from "./run.js";
import { Sliders } from "./sliders.js";
import { steer } from "./steering.js";
import { Walk } from "./walk.js";

const SIDE_BY_SIDE = 3; // runs at most, for there is no room for more
const PAD_NOTE = "With the mouse or a finger; the encoder answers as you draw.";

const find = (id) => document.getElementById(id);

/** Everything that the page shows, and what is chosen. */
class Explorer {
  constructor(page) {
    this.arrays = new Arrays();
    this.datasets = page.datasets.map((words) => new Dataset(words, this.arrays));
    this.runs = page.runs.map(
      (words) => new Run(words, this.datasets[words.dataset], this.arrays),
    );
    this.look = { hidden: new Set(), points: true, density: false, manifold: false, pan: false };
    this.maps = [];
    this.choice = null;
    this.sliders = new Sliders(find("sliders"), (z) => this.showLatent(z));
    this.walk = new Walk(find("film"), find("replay"), this);
    this.pad = makePad(find("pad"), oncePerFrame((strokes) => this.drawOwn(strokes)));
    this.timings = {};
  }

  /** Shows the first run, then what takes longer. */
  async start() {
    this.makeSwitch();
    bindButtons(this);
    await this.showRuns([0]);
    requestAnimationFrame(() => (this.timings.firstPicture = performance.now()));
    await Promise.all(this.datasets.map((dataset) => dataset.loadImages()));
    this.fillStrip();
    const [first] = this.dataset.words.prepared;
    if (this.maps.length && first !== undefined) this.choose(first);
    document.body.dataset.ready = "true";
  }

  makeSwitch() {
    const button = (words, runs) =>
      element("button", { onclick: () => this.showRuns(runs), "data-runs": runs.join() }, words);
    const buttons = this.runs.map((run, i) => button(run.name, [i]));
    const isFew = this.runs.length > 1 && this.runs.length <= SIDE_BY_SIDE;
    const isPair = isFew && this.runs.every((run) => !run.words.states);
    if (isPair) buttons.push(button("side by side", this.runs.map((_, i) => i)));
    find("runs").replaceChildren(...buttons);
    find("runs").hidden = this.runs.length < 2;
  }

  /** Shows one run, or some side by side. */
  async showRuns(numbers) {
    this.walk.stop();
    const runs = numbers.map((number) => this.runs[number]);
    for (const run of runs) {
      await run.dataset.load();
      await run.load();
    }
    const before = this.dataset;
    Object.assign(this, { shown: numbers, dataset: runs[0].dataset });
    if (before && before !== this.dataset) this.choice = null;
    for (const button of find("runs").children) {
      button.setAttribute("aria-pressed", `${button.dataset.runs === numbers.join()}`);
    }
    find("about").textContent = runs.length > 1 ? runs[0].words.about.split(",")[0] : runs[0].words.about;
    this.makeMaps(runs);
    this.fillLegend();
    if (this.dataset.pixels) this.fillStrip();
    this.showChoice();
  }

  makeMaps(runs) {
    this.closeMaps?.();
    const isDiscrete = Boolean(runs[0].words.states);
    for (const id of ["maps", "strip", "looks", "decoded-card", "walk-card"]) {
      find(id).hidden = isDiscrete;
    }
    find("gallery").hidden = !isDiscrete;
    find("draw-card").hidden = isDiscrete || !this.dataset.words.frame;
    find("pad-note").textContent = runs[0].words.notes?.join(" ") || PAD_NOTE;
    this.maps = [];
    find("maps").replaceChildren();
    if (isDiscrete) {
      fillGallery(find("gallery"), runs[0], (place) => this.chooseState(runs[0], place));
      return;
    }
    for (const run of runs) this.maps.push(this.makeMap(run, runs.length > 1));
    const [{ view }] = this.maps;
    this.pointAt(this.maps[0], [view.width / 2, view.height / 2]);
    const observer = new ResizeObserver(() => this.maps.forEach((map) => map.resize()));
    observer.observe(find("maps"));
    this.closeMaps = () => observer.disconnect();
  }

  makeMap(run, isNamed) {
    const canvas = element("canvas", {
      tabIndex: 0,
      role: "application",
      "aria-label": `The latent space of the run ${run.name}; arrow keys move the pointer`,
    });
    const figure = element("figure", { className: "map" }, canvas);
    if (isNamed) figure.prepend(element("figcaption", {}, run.name));
    find("maps").append(figure);
    const map = new LatentMap(canvas, run, this.look);
    listen(canvas, steer(this, map), () => this.look.pan);
    return map;
  }

  /** Makes a map the one that sliders and buttons are for. */
  focus(map) {
    if (this.focused === map) return;
    this.focused = map;
    this.sliders.show(map.run);
    this.latent = map.run.lift(map.run.words.directions.map(() => 0));
  }

  /** Shows what is decoded at a pixel of a map. */
  pointAt(map, pixel) {
    this.focus(map);
    map.cursorHeight = pixel[1];
    this.moveTo(map, map.view.toPlane(pixel));
  }

  /** Shows what is decoded at coordinates of a map. */
  moveTo(map, place) {
    for (const other of this.maps) {
      if (other !== map && other.cursor) {
        other.cursor = null;
        other.draw();
      }
    }
    map.cursor = place;
    this.latent = map.run.lift(place, this.latent);
    this.sliders.set(this.latent);
    this.decode(map);
  }

  /** Shows a latent that the sliders say. */
  showLatent(z) {
    const map = this.focused;
    const [u, v = map.cursor?.[1] ?? 0] = map.run.project(z);
    this.latent = z;
    map.cursor = [u, v];
    this.decode(map);
  }

  decode(map) {
    const start = performance.now();
    const mean = map.run.model.decode(this.latent);
    paint(find("decoded"), mean, map.run.dataset.shape);
    this.timings.decode = performance.now() - start;
    const numbers = this.latent.slice(0, 4).map((v) => show(v)).join(", ");
    const more = this.latent.length > 4 ? ", …" : "";
    const words = this.latent.length > 1 ? `(${numbers}${more})` : numbers;
    find("place").textContent = `z = ${words}`;
    map.draw();
  }

  /** Chooses a test image. */
  choose(index) {
    this.choice = { index, image: this.dataset.image(index) };
    this.showChoice();
  }

  /** Chooses the figure that was drawn on the pad. */
  drawOwn(strokes) {
    const { frame, image_shape: shape, is_binary: isBinary } = this.dataset.words;
    let image = drawFigure(strokes, shape, frame);
    if (!image) {
      find("drawn").hidden = true;
      if (this.choice?.index === null) this.choice = null;
      this.showChoice();
      return;
    }
    if (isBinary) image = image.map((v) => (v > 0.5 ? 1 : 0));
    paint(find("drawn"), image, shape);
    find("drawn").hidden = false;
    this.choice = { index: null, image };
    this.showChoice();
  }

  /** Shows what the runs make of the chosen image. */
  showChoice() {
    for (const button of find("strip").children) {
      const isChosen = Number(button.dataset.index) === this.choice?.index;
      button.setAttribute("aria-pressed", `${this.choice !== null && isChosen}`);
    }
    for (const map of this.maps) map.chosen = null;
    if (this.choice && this.maps.length) {
      const found = this.maps.map((map) => this.examine(map));
      const gaps = found.map(({ answer }) => (answer ? answer.log_p - answer.elbo : 0));
      find("chosen").replaceChildren(
        ...found.map((one) => makeBlock(one, this.maps.length > 1, Math.max(...gaps))),
      );
      find("key").hidden = false;
      find("key").lastElementChild.hidden = !this.maps.some((map) => map.chosen?.posterior);
      find("chosen-title").textContent = this.titleOf(this.choice);
    }
    this.maps.forEach((map) => map.draw());
  }

  titleOf({ index }) {
    if (index === null) return "Your drawing";
    const name = this.dataset.words.has_labels ? `, a ${this.dataset.nameOf(index)}` : "";
    return `Test image ${index}${name}`;
  }

  /** Returns what a map's run makes of the chosen image. */
  examine(map) {
    const { run } = map;
    const { index, image } = this.choice;
    const answer = index === null ? null : run.answer(index);
    const q = answer ? readDistribution(answer.q) : run.model.infer(image);
    const isPlaced = index !== null;
    if (!q && !isPlaced) return { run, image, answer, notes: run.words.notes };
    const center = q ? q.center() : run.lift(run.point(index));
    const point = isPlaced ? run.point(index) : run.project(center);
    map.chosen = {
      q,
      point: point.length > 1 ? point : [point[0], 0],
      hasRow: isPlaced,
      best: answer ? readDistribution(answer.best) : null,
      posterior: answer?.posterior ? new Posterior(answer.posterior, this.arrays) : null,
    };
    const mean = run.model.decode(center);
    const elbo = answer ? null : run.model.elbo(image, q);
    const notes = answer || !isPlaced ? [] : ["The package's exact answers are on the images below the map."];
    return { run, image, mean, answer, elbo, notes, chosen: map.chosen };
  }

  chooseState(run, place) {
    [...find("gallery").children].forEach((button, i) =>
      button.setAttribute("aria-pressed", `${i === place}`),
    );
    const states = this.arrays.floats(run.words.states.state_of);
    const chosen = [...states.keys()].filter((i) => states[i] === place && run.dataset.has(i));
    const pictures = chosen.slice(0, 48).map((i) => makePicture(run.dataset.image(i), run.dataset.shape));
    find("chosen-title").textContent = `Test images in state ${run.words.states.numbers[place]}`;
    find("chosen").replaceChildren(element("div", { className: "examples" }, ...pictures));
    find("key").hidden = true;
  }

  fillStrip() {
    fillStrip(find("strip"), this.dataset, (index) => this.choose(index));
  }

  fillLegend() {
    const { hidden } = this.look;
    fillLegend(find("legend"), this.dataset, hidden, (number, isAlone) => {
      if (isAlone) this.dataset.names.forEach((_, i) => (i === number ? hidden.delete(i) : hidden.add(i)));
      else if (!hidden.delete(number)) hidden.add(number);
      if (hidden.size === this.dataset.names.length) hidden.clear();
      this.fillLegend();
      this.maps.forEach((map) => map.draw());
    });
  }
}

/** Returns a function that is called at most once between two frames. */
function oncePerFrame(f) {
  let isAsked = false;
  return (...values) => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      f(...values);
    });
  };
}

const explorer = new Explorer(JSON.parse(find("data").textContent));
window.explorer = explorer;
explorer.start();
