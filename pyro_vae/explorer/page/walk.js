/** The way from A to B: a film of mean images, and the pointer that plays it. */
import { makePicture } from "./pictures.js";

const FRAMES = 9;
const DURATION = 2400; // milliseconds

/** Plays the interpolation between two places of a map. */
export class Walk {
  constructor(film, button, explorer) {
    Object.assign(this, { film, button, explorer, playing: 0 });
    button.onclick = () => this.play(this.map, this.from, this.to);
  }

  /** Shows the film, and moves the pointer along the way. */
  play(map, from, to) {
    Object.assign(this, { map, from, to });
    map.path = { from, to };
    this.button.hidden = false;
    this.film.replaceChildren(...this.makeFrames());
    this.stop();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const started = performance.now();
    const step = (now) => {
      const t = Math.min(1, Math.max(0, now - started) / DURATION);
      this.explorer.moveTo(map, this.at(0.5 - 0.5 * Math.cos(Math.PI * t)));
      this.playing = t < 1 ? requestAnimationFrame(step) : 0;
    };
    this.playing = requestAnimationFrame(step);
  }

  /** Ends a film that is playing. */
  stop() {
    cancelAnimationFrame(this.playing);
    this.playing = 0;
  }

  at(t) {
    return this.from.map((v, i) => v + t * (this.to[i] - v));
  }

  makeFrames() {
    const { run } = this.map;
    return Array.from({ length: FRAMES }, (_, k) => {
      const z = run.lift(this.at(k / (FRAMES - 1)), this.explorer.latent);
      return makePicture(run.model.decode(z), run.dataset.shape);
    });
  }
}
