/** Data sets and runs, read from what the package wrote. */
import { Model } from "./model.js";
import { Random } from "./special.js";

/** A test set: its labels, and as many images as the page has. */
export class Dataset {
  constructor(words, arrays) {
    Object.assign(this, { words, arrays });
    this.shape = words.image_shape;
    this.names = words.label_names;
  }

  /** Unpacks the labels. */
  async load() {
    await this.arrays.load(this.words.labels.blob);
    this.labels = this.arrays.floats(this.words.labels);
  }

  /** Unpacks the images. */
  async loadImages() {
    await this.arrays.load(this.words.pixels.blob);
    this.pixels = this.arrays.bytes(this.words.pixels);
  }

  /** @returns {boolean} Whether the page has the image of a number. */
  has(index) {
    return Boolean(this.pixels) && index < this.words.num_pictures;
  }

  /** @returns {Float32Array} A test image. */
  image(index) {
    const size = this.shape.reduce((a, b) => a * b);
    const bytes = this.pixels.subarray(index * size, (index + 1) * size);
    const { low, step } = this.words;
    return Float32Array.from(bytes, (byte) => low + step * byte);
  }

  /** @returns {string} The name of an image's label. */
  nameOf(index) {
    return this.names[this.labels[index]];
  }
}

/** A run: a model, the test set's latents, and the plane that is drawn. */
export class Run {
  constructor(words, dataset, arrays) {
    Object.assign(this, { words, dataset, arrays });
    this.name = words.name;
    this.dim = words.latent_dim;
    this.isLine = this.dim === 1;
  }

  /** Unpacks what the run needs. */
  async load() {
    if (this.isLoaded) return;
    const reference = this.words.points ?? this.words.states.images;
    await this.arrays.load(reference.blob);
    if (!this.words.states) {
      this.model = new Model(this.words, this.arrays);
      this.points = this.placePoints();
    }
    this.isLoaded = true;
  }

  /** Returns the points, two coordinates each; on a line by label. */
  placePoints() {
    const values = this.arrays.floats(this.words.points);
    if (!this.isLine) return values;
    const random = new Random(1);
    const points = new Float32Array(2 * values.length);
    values.forEach((z, i) => {
      points[2 * i] = z;
      points[2 * i + 1] = 0.7 * (random.uniform() - 0.5) - this.dataset.labels[i];
    });
    return points;
  }

  /** @returns {number[]} The corners of the first view: low, then high. */
  bounds() {
    const { low, high } = this.words;
    if (!this.isLine) return [low, high];
    return [[low[0], 0.5 - this.dataset.names.length], [high[0], 0.5]];
  }

  /** @returns {number[]} The coordinates of a latent. */
  project(z) {
    const { origin, directions } = this.words;
    return directions.map((row) =>
      row.reduce((sum, d, p) => sum + d * (z[p] - origin[p]), 0),
    );
  }

  /**
   * Returns the latent at coordinates.
   * @param {number[]} place The coordinates; on a line the first counts alone.
   * @param {number[]} from A latent whose distance from the plane is kept.
   */
  lift(place, from = null) {
    const { origin, directions } = this.words;
    const base = from ?? origin;
    const now = this.project(base);
    return base.map((value, p) =>
      directions.reduce((sum, row, i) => sum + row[p] * (place[i] - now[i]), value),
    );
  }

  /** @returns {object|null} The package's answers on a test image, if any. */
  answer(index) {
    const place = this.dataset.words.prepared.indexOf(index);
    return this.words.answers[place] ?? null;
  }

  /** @returns {number[]} The coordinates of a test image's point. */
  point(index) {
    return [this.points[2 * index], this.points[2 * index + 1]];
  }
}
