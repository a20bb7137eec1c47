"""Measures gradient estimators at fixed parameters on a fixed minibatch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
import tyro
from gradient_estimators_figure import draw_gradient_estimators
from torch import Tensor
from tqdm import trange

from pyro_vae import VAE, Config, build, make_objective
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_figure, write_table
from pyro_vae.config.variants import BASELINES, PRIORS
from pyro_vae.parts.distributions import OneHots
from pyro_vae.parts.gradient_estimators import ScoreFunction
from pyro_vae.runs.run import Run, load_run

GROUPS = 10  # of draws; their spread is the standard error of a squared bias
BLOCKS = {
    "encoder": "guide.distribution.",
    "decoder": "model.likelihood.decoder.",
    "noise": "model.likelihood.log_scale",
    "prior": "model.prior.",
}

# The run's own choices of these are set aside.
OF_GRADIENTS = (
    "gradient",
    "baseline",
    "temperature",
    "straight_through",
    "objective",
    "alpha",
    "beta",
    "warmup",
    "free_bits",
)

Gradient = dict[str, Tensor]  # of the mean ELBO, flat, by block
Row = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        folder: Folder of a run, as fit wrote it.
        untrained: Take the run's initial weights in place of the fitted ones.
        draws: Gradients drawn with each estimator.
        warm_up: Draws before those, which a baseline learns from.
        minibatch: Training images in the fixed minibatch.
        temperatures: Temperatures of the Gumbel-softmax.
        seed: Seed of the draws.
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        output: Folder for gradients.csv and gradients.png; by default the
            run's.
    """

    folder: tyro.conf.Positional[Path]
    untrained: bool = False
    draws: int = 1000
    warm_up: int = 300
    minibatch: int = 128
    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0)
    seed: int = 0
    data_dir: Path | None = None
    output: Path | None = None


def main(command: CommandLine[Flags]) -> None:
    """Measures a run's estimators; writes a table and its figure."""
    flags = command.parse()
    if flags.draws < 2 * GROUPS:
        raise ValueError(
            f"--draws is {flags.draws}; expected at least {2 * GROUPS}"
        )
    check_at_least_1(flags, "minibatch")
    a_run = load_run(flags.folder, flags.data_dir)
    # A learned baseline starts with weights of its own, whatever the run's.
    torch.manual_seed(a_run.config.seed)
    if flags.untrained:
        a_run = replace(a_run, vae=make_fresh_vae(a_run))
    table = pd.DataFrame(measure(a_run, flags))
    folder = flags.output or flags.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_table(table, folder / "gradients.csv")
    write_figure(draw_gradient_estimators(table), folder / "gradients.png")
    print(table.to_string(index=False, float_format="{:.3g}".format))


def measure(a_run: Run, flags: Flags) -> list[Row]:
    """Returns a row for each estimator and block of parameters."""
    x = a_run.data.train[: flags.minibatch]
    estimators = dict(make_estimators(a_run, flags.temperatures))
    torch.manual_seed(flags.seed)
    is_exact = isinstance(a_run.vae.prior(), OneHots)
    first = next(iter(estimators.values()))
    reference = Draws({})
    for _ in range(GROUPS if is_exact else flags.draws):
        reference.add(draw(first, x))
    centers = {block: reference.mean(block) for block in reference.sums}
    rows = []
    for name, vae in estimators.items():
        warm_up(vae, x, flags.warm_up)
        draws, seconds = Draws(centers), []
        for _ in trange(flags.draws, desc=name, disable=None):
            started = time.perf_counter()
            gradient = draw(vae, x)
            seconds.append(time.perf_counter() - started)
            draws.add(gradient)
        cost = {"ms": 1e3 * float(np.median(seconds)), "draws": flags.draws}
        for row in compare(draws, reference):
            rows.append({"estimator": name, **row, **cost})
    return rows


def make_estimators(
    a_run: Run, temperatures: tuple[float, ...]
) -> Iterator[tuple[str, VAE]]:
    """Yields the VAE with each estimator that its prior allows, by name."""
    weights = {
        name: value
        for name, value in a_run.vae.state_dict().items()
        if not name.startswith("guide.gradient.")
    }
    for name, choices in list_variants(a_run.config.prior, temperatures):
        vae = make_fresh_vae(a_run, **choices)
        vae.load_state_dict(weights, strict=False)
        yield name, vae


def list_variants(
    prior: str, temperatures: tuple[float, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and the choices of each estimator for a prior."""
    for gradient in PRIORS[prior].goes_with["gradient"]:
        choices: dict[str, Any] = {"gradient": gradient}
        if gradient == "score-function-baseline":
            for baseline in BASELINES:
                name = f"score-function, {baseline} baseline"
                yield name, {**choices, "baseline": baseline}
        elif gradient == "gumbel-softmax":
            for temperature in temperatures:
                name, of_it = f"{gradient} {temperature:g}", dict(choices)
                of_it["temperature"] = temperature
                yield name, of_it
                yield (
                    f"{name}, straight-through",
                    {**of_it, "straight_through": True},
                )
        else:
            yield gradient, choices


def make_fresh_vae(a_run: Run, **choices: Any) -> VAE:
    """Makes the run's VAE with fresh weights, and a gradient of its ELBO."""
    plain = {
        f.name: f.default for f in fields(Config) if f.name in OF_GRADIENTS
    }
    config = replace(a_run.config, **{**plain, **choices})
    data = a_run.data
    return build(config, data.data_dim, data.image_shape)


def draw(vae: VAE, x: Tensor) -> Gradient:
    """Draws the gradient of the mean ELBO of a minibatch once."""
    vae.zero_grad()
    loss: Any = make_objective(vae)  # ELBO does not declare loss_and_grads
    with pyro.validation_enabled(False):
        loss.loss_and_grads(vae.model, vae.guide, x)
    gradient = {}
    for block, prefix in BLOCKS.items():
        grads = [
            parameter.grad
            for name, parameter in vae.named_parameters()
            if name.startswith(prefix) and parameter.grad is not None
        ]
        if grads:
            gradient[block] = torch.cat([-g.flatten() / len(x) for g in grads])
    return gradient


def warm_up(vae: VAE, x: Tensor, count: int) -> None:
    """Lets a baseline learn, and leaves the other parameters as they are."""
    estimator = vae.guide.gradient
    baseline = None
    if isinstance(estimator, ScoreFunction):
        baseline = estimator.baseline
    if baseline is None:
        draw(vae, x)
        return
    parameters = list(baseline.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3) if parameters else None
    for _ in range(count):
        draw(vae, x)
        if optimizer is not None:
            optimizer.step()


class Draws:
    """Running sums over draws of a gradient, for each block of parameters.

    Args:
        centers: What is subtracted from each draw, by block; nothing if empty.

    Attributes:
        count: The number of draws.
        sums: Sums of the differences, a row for each group of draws.
        squares: The squared size of each difference, by group.
        along: Each difference along the center, in units of its size.
    """

    def __init__(self, centers: Gradient):
        self.centers = centers
        self.count = 0
        self.sums: dict[str, Tensor] = {}
        self.squares: dict[str, list[list[float]]] = {}
        self.along: dict[str, list[float]] = {}

    def add(self, gradient: Gradient) -> None:
        """Takes a draw into the sums."""
        group = self.count % GROUPS
        self.count += 1
        for block, value in gradient.items():
            if block not in self.sums:
                self.sums[block] = torch.zeros(GROUPS, len(value)).double()
                self.squares[block] = [[] for _ in range(GROUPS)]
                self.along[block] = []
            value = value.double()
            if self.centers:
                center = self.centers[block]
                value = value - center
                along = value @ center / (center @ center)
                self.along[block].append(along.item())
            self.sums[block][group] += value
            self.squares[block][group].append((value @ value).item())

    def mean(self, block: str) -> Tensor:
        """Returns the mean difference of a block, flat."""
        return self.sums[block].sum(0) / self.count

    def variance(self, block: str) -> float:
        """Returns the sum over the block's entries of their variances."""
        squares = sum(map(sum, self.squares[block]))
        center = self.mean(block)
        excess = squares - self.count * (center @ center).item()
        return max(0.0, excess) / (self.count - 1)


def compare(draws: Draws, reference: Draws) -> Iterator[Row]:
    """Yields the bias and the variance of each block.

    Squares are relative to the square of the reference's mean.
    """
    for block in draws.sums:
        center = reference.mean(block)
        size = (center @ center).item()
        noise = reference.variance(block) / reference.count
        biases = []
        for total, squares in zip(
            draws.sums[block], draws.squares[block], strict=True
        ):
            # Pairs of different draws, without the draws' own variance.
            pairs = len(squares) * (len(squares) - 1)
            pairwise = (total @ total).item() - sum(squares)
            biases.append((pairwise / pairs - noise) / size)
        along = np.array(draws.along[block])
        of_reference = reference.sums[block] @ center / size
        of_reference = of_reference * GROUPS / reference.count
        along_variance = along.var() / len(along)
        along_variance += of_reference.var().item() / GROUPS
        yield {
            "block": block,
            "bias_along": along.mean(),
            "bias_along_se": np.sqrt(along_variance),
            "squared_bias": np.mean(biases),
            "squared_bias_se": np.std(biases, ddof=1) / GROUPS**0.5,
            "variance": draws.variance(block) / size,
        }


if __name__ == "__main__":
    run(main, Flags, __doc__)
