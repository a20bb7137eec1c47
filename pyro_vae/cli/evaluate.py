"""Evaluates a run: exact and estimated log p(x), and where the ELBO loses."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.cli.drawing import draw_run
from pyro_vae.cli.drawing_evaluation import (
    draw_bounds,
    draw_gaps,
    draw_posteriors,
)
from pyro_vae.cli.evaluation_file import EvaluationFile
from pyro_vae.cli.evaluation_table import (
    Rows,
    describe_aggregate,
    describe_gaps,
    is_plane_or_line,
    make_rows,
)
from pyro_vae.cli.flags import CommandLine, check_at_least_1, to_flag
from pyro_vae.cli.output import check_inner_folder, write_figures
from pyro_vae.cli.progress import Counter
from pyro_vae.config import Config
from pyro_vae.evaluation import (
    METHODS,
    Effort,
    Gaps,
    LogMarginal,
    by_label,
    check_tolerance,
    default_method,
    estimate_elbo,
    evaluation_mode,
    find_method,
    place_labels,
    split_gap,
    warn_of_few,
    zip_batches,
)
from pyro_vae.parts.likelihoods import bits_per_dimension
from pyro_vae.randomness import random_stream
from pyro_vae.runs.files import FileError
from pyro_vae.runs.folder import EVALUATION, FIGURES, OF_BEST
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.models import BEST, WEIGHTS
from pyro_vae.runs.run import Run, load_run, read_config
from pyro_vae.training import best_epoch, resolve_device
from pyro_vae.vae import VAE

CHUNK = 2500  # images between two looks at the bar
GRID_CHUNK = 10_000  # the same for quadrature, whose images share a grid
ELBO_SAMPLES = 20  # of z for each image
ELBO_CHUNK = 1000  # images
GAP_CHUNK = 25  # images, for a look at the bar and for the cache
CURVE_IMAGES = 100
MOST_SAMPLES = 1_000_000
MethodName = Literal[("elbo", *METHODS)]  # type: ignore[valid-type]


@dataclass(frozen=True)
class Flags:
    """The flags of the command.

    Attributes:
        folder: Folder of a run, as fit wrote it.
        best: Evaluate the weights of the best validation ELBO, which early
            stopping kept, in place of the last ones.
        methods: Estimates of log p(x) on the test set: elbo, the ELBO;
            {methods}. By default elbo, and the first of the others that takes
            the latents.
        num_samples: Samples for each image: those of importance, or the chains
            of ais times their 200 temperatures.
        tolerance: The largest error of an image that quadrature accepts, in
            nats.
        limit: Evaluate the first LIMIT test images only.
        gap_images: Test images whose gap is split in two; 0 for none.
        ais_images: Test images that are annealed, if ais is among the methods.
        per_image: Write a row for each image, too.
        no_figures: Write no figures.
        redraw: Draw the figures that fit draws again, and evaluate nothing.
        seed: Seed of all samples.
        device: Torch device: cpu, cuda, ... auto: cuda where there is one.
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        output: Folder for evaluation.csv and figures/; by default the run's,
            or with --best the folder best in it.
    """

    folder: tyro.conf.Positional[Path]
    best: bool = False
    methods: tuple[MethodName, ...] = ()
    num_samples: int = 5000
    tolerance: float = 0.01
    limit: int | None = None
    gap_images: int = 50
    ais_images: int = 50
    per_image: bool = False
    no_figures: bool = False
    redraw: bool = False
    seed: int = 0
    device: str = "auto"
    data_dir: Path | None = None
    output: Path | None = None


# The help of --methods is what the table of the methods says of them.
Flags.__doc__ = (Flags.__doc__ or "").format(
    methods="; ".join(f"{name}, {row.about}" for name, row in METHODS.items())
)


def main(command: CommandLine[Flags]) -> int:
    """Evaluates, writes the table and the figures, and prints a summary."""
    flags = command.parse()
    check_at_least_1(flags, "ais_images", "limit")
    check_at_least_1(flags, "num_samples", most=MOST_SAMPLES)
    check_tolerance(flags.tolerance)
    check_weights(flags.folder, flags.best)
    run = load_run(flags.folder, flags.data_dir, flags.best)
    if flags.redraw:
        drawn = draw_run(run.vae, run.data, flags.folder)
        folder = make_folder(flags)
        write_figures(drawn, folder / FIGURES)
        print(f"wrote {folder / FIGURES}: {', '.join(drawn)}")
        return 0
    device = resolve_device(flags.device)
    vae, test = run.vae.to(device), run.data.test[: flags.limit].to(device)
    labels = place_labels(vae, run.data.test_labels)
    labels = None if labels is None else labels[: flags.limit]
    first = slice(max(0, flags.gap_images))
    some, known = test[first], None if labels is None else labels[first]
    methods = choose_methods(run, flags)
    folder = make_folder(flags)
    table = EvaluationFile(folder / EVALUATION, find_epoch(run, flags))
    try:
        for method in methods:
            table.add(evaluate(method, vae, test, labels, flags))
        table.add(describe_aggregate(vae, test, labels, flags.seed))
        gaps = None
        if len(some):
            gaps, seconds = split_gaps(vae, some, known, flags.seed)
            table.add(
                describe_gaps(vae, some, known, gaps, seconds, flags.per_image)
            )
        if not flags.no_figures:
            drawn = draw_evaluation(run, test, labels, gaps, flags.seed)
            write_figures(drawn, folder / FIGURES)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(table.describe()) from None
    print(f"wrote {table.path}")
    return 0


def find_epoch(run: Run, flags: Flags) -> int | None:
    """Returns the epoch of a run's weights; None without a history."""
    if not (flags.folder / HISTORY).exists():
        return None
    records = read_history(flags.folder / HISTORY)
    epoch = best_epoch(records, run.config.warmup) if flags.best else -1
    return None if epoch is None else int(records[epoch]["epoch"])


def make_folder(flags: Flags) -> Path:
    """Returns the folder to write, which is made if it does not exist.

    Raises:
        ValueError: If a folder within the run's, or the figures', is a link.
    """
    folder = flags.output or flags.folder
    if flags.best and flags.output is None:
        folder = flags.folder / OF_BEST
        check_inner_folder(folder)
    if not flags.no_figures:
        check_inner_folder(folder / FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_weights(folder: Path, best: bool) -> None:
    """Refuses a run without the weights that are to be evaluated.

    Raises:
        FileError: If they are missing; it says how to make them.
    """
    config = read_config(folder)
    path = folder / (BEST if best else WEIGHTS)
    if path.exists():
        return
    words = ["pyro-vae", "fit", *list_choices(config)]
    if best and config.early_stopping is None:
        raise FileError(
            f"there is no file {path}: the run did not stop early; expected a "
            "fit with --early-stopping for --best: leave --best out"
        )
    raise FileError(
        f"there is no file {path}; expected the weights of the run: make them "
        f"by {shlex.join(words)} --output FOLDER, and evaluate that folder"
    )


def list_choices(config: Config) -> Iterator[str]:
    """Yields the flags that a fit needs to make the choices of a run again."""
    usual = Config()
    for field in fields(Config):
        value = getattr(config, field.name)
        if value == getattr(usual, field.name):
            continue
        yield to_flag(field.name)
        if isinstance(value, tuple):
            yield from map(str, value)
        elif value is not True:
            yield str(value)


def choose_methods(run: Run, flags: Flags) -> tuple[str, ...]:
    """Returns the names of the methods to evaluate by.

    Raises:
        ValueError: If one cannot take the latents.
    """
    methods = flags.methods or ("elbo", default_method(run.vae))
    for method in methods:
        if method != "elbo":
            find_method(run.vae, method)
    return methods


def evaluate(
    method: str, vae: VAE, test: Tensor, labels: Tensor | None, flags: Flags
) -> Rows:
    """Returns the rows of a method: one for each image, then a summary."""
    if method == "ais":
        test = test[: flags.ais_images]
        labels = None if labels is None else labels[: flags.ais_images]
    started = time.perf_counter()
    parts = []
    counter = Counter(method, len(test))
    size = GRID_CHUNK if method == "quadrature" else CHUNK
    for x, *y in zip_batches(test, labels, size):
        estimator = partial(estimate, method, flags)
        parts.append(by_label(estimator, vae, x, y[0] if y else None))
        counter.add(len(x))
    counter.close()
    found = LogMarginal.join(parts)
    if found.effective_sample_size is not None:  # said once, of all chunks
        warn_of_few(vae, found.effective_sample_size, flags.num_samples)
    return make_rows(
        method,
        found,
        method in METHODS and METHODS[method].is_exact,
        time.perf_counter() - started,
        flags.per_image,
        bits_per_dimension(vae.likelihood, found.value.mean().item(), test),
    )


def split_gaps(
    vae: VAE, x: Tensor, labels: Tensor | None, seed: int
) -> tuple[Gaps, float]:
    """Splits the gaps of images, and returns the seconds that it took."""
    started = time.perf_counter()
    parts = []
    counter = Counter("gaps", len(x))
    for part, *y in zip_batches(x, labels, GAP_CHUNK):
        known = y[0] if y else None
        parts.append(split_gap(vae, part, seed=seed, labels=known))
        counter.add(len(part))
    counter.close()
    return Gaps.join(parts), time.perf_counter() - started


def estimate(method: str, flags: Flags, vae: VAE, x: Tensor) -> LogMarginal:
    """Estimates log p(x) of some images by a method, or their ELBO."""
    if method != "elbo":
        effort = Effort(flags.num_samples, flags.seed, flags.tolerance)
        return METHODS[method].estimate(vae, x, effort)
    with evaluation_mode(vae), random_stream(flags.seed, 0, x.device):
        parts = [
            estimate_elbo(vae, part, ELBO_SAMPLES)
            for part in x.split(ELBO_CHUNK)
        ]
    return LogMarginal.join(parts)


def draw_evaluation(
    run: Run,
    test: Tensor,
    labels: Tensor | None,
    gaps: Gaps | None,
    seed: int,
) -> dict[str, Figure]:
    """Draws the bounds and the gaps; by the figure's name."""
    drawn = {}
    if gaps is not None and is_plane_or_line(run.vae):
        drawn["gaps"] = draw_gaps(gaps)
        if run.vae.prior().event_shape[0] == 2:
            drawn["posteriors"] = draw_posteriors(run, test, labels, gaps)
    # Neighbors in a data set are alike; the first of MNIST are easy, too.
    some = slice(None, None, -(-len(test) // CURVE_IMAGES))
    known = None if labels is None else labels[some]
    drawn["importance"] = draw_bounds(run.vae, test[some], known, seed)
    return drawn
