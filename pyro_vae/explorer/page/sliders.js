/** A slider for each latent dimension, where there are more than two. */
import { element, show } from "./cards.js";

/** Sliders that show a latent and change it. */
export class Sliders {
  /**
   * @param {HTMLElement} place Where they stand.
   * @param {(z: number[]) => void} onChange Called with the new latent.
   */
  constructor(place, onChange) {
    Object.assign(this, { place, onChange, inputs: [], dim: 0 });
  }

  /** Makes the sliders of a run. */
  show(run) {
    this.dim = run.dim;
    const { range } = run.words;
    const rows = this.dim > 2 ? range.map((ends, p) => this.makeRow(ends, p)) : [];
    this.place.replaceChildren(...rows);
    this.inputs = rows.map((row) => row.querySelector("input"));
  }

  makeRow([low, high], p) {
    const margin = 0.1 * (high - low) + 1e-3;
    const input = element("input", {
      type: "range", min: low - margin, max: high + margin, step: "any", value: 0,
      "aria-label": `latent dimension ${p + 1}`,
      oninput: () => this.change(p),
    });
    return element("label", {}, `z${p + 1}`, input, element("output", {}, "0.00"));
  }

  change(p) {
    this.latent[p] = Number(this.inputs[p].value);
    this.set(this.latent);
    this.onChange(this.latent);
  }

  /** Moves the sliders to a latent. */
  set(latent) {
    this.latent = [...latent];
    this.inputs.forEach((input, p) => {
      input.value = latent[p];
      input.nextSibling.textContent = show(latent[p]);
    });
  }
}
