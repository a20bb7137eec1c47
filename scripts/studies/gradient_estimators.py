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
from command_line import check_at_least_1, parse, run
from runs import Run, load_run
from torch import Tensor
from tqdm import trange

from pyro_vae import VAE, Config, build, figures
from pyro_vae.config import FITTING_GRADIENTS
from pyro_vae.config.build import BASELINES
from pyro_vae.objectives import make_objective
from pyro_vae.parts.distributions import OneHots

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


@dataclass(frozen=True)
class Flags:
    folder: tyro.conf.Positional[Path]
    """Folder of a run, as fit.py wrote it."""
    untrained: bool = False
    """Take the run's initial weights in place of the fitted ones."""
    draws: int = 1000
    """Gradients drawn of each estimator."""
    warm_up: int = 300
    """Draws that a baseline learns from before."""
    minibatch: int = 128
    """Training images in the fixed minibatch."""
    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Of the Gumbel-softmax."""
    seed: int = 0
    """Of the draws."""
    data_dir: Path | None = None
    """Folder of the data sets; by default $PYRO_VAE_DATA, else a cache folder
    in your home."""
    output: Path | None = None
    """Folder for gradients.csv and gradients.png; by default the run's."""


def main() -> None:
    flags = parse(Flags)
    if flags.draws < 2 * GROUPS:
        raise ValueError(
            f"--draws is {flags.draws}; expected at least {2 * GROUPS}"
        )
    check_at_least_1(flags, "minibatch")
    a_run = load_run(flags.folder, flags.data_dir)
    if flags.untrained:
        torch.manual_seed(a_run.config.seed)
        a_run = replace(a_run, vae=fresh_vae(a_run))
    table = pd.DataFrame(measure(a_run, flags))
    folder = flags.output or flags.folder
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "gradients.csv", index=False)
    figures.gradients(table).savefig(folder / "gradients.png")
    print(table.to_string(index=False, float_format="{:.3g}".format))


def measure(a_run: Run, flags: Flags) -> list[dict[str, Any]]:
    """A row for each estimator and block of parameters."""
    x = a_run.data.train[: flags.minibatch]
    estimators = dict(rivals(a_run, flags.temperatures))
    torch.manual_seed(flags.seed)
    is_exact = isinstance(a_run.vae.prior(), OneHots)
    first = next(iter(estimators.values()))
    reference = Draws(None)
    for _ in range(GROUPS if is_exact else flags.draws):
        reference.add(draw(first, x))
    rows = []
    for name, vae in estimators.items():
        warm_up(vae, x, flags.warm_up)
        draws = Draws(reference)
        for _ in trange(flags.draws, desc=name, disable=None):
            started = time.perf_counter()
            gradient = draw(vae, x)
            draws.seconds.append(time.perf_counter() - started)
            draws.add(gradient)
        rows += [{"estimator": name, **row} for row in draws.rows()]
    return rows


def rivals(
    a_run: Run, temperatures: tuple[float, ...]
) -> Iterator[tuple[str, VAE]]:
    """The VAE with each estimator that its prior allows, by name."""
    variants: dict[str, dict[str, Any]] = {}
    for gradient in FITTING_GRADIENTS[a_run.config.prior]:
        if gradient == "score-function-baseline":
            for baseline in BASELINES:
                variants[f"score-function, {baseline} baseline"] = {
                    "gradient": gradient,
                    "baseline": baseline,
                }
        elif gradient == "gumbel-softmax":
            for temperature in temperatures:
                for hard in (False, True):
                    name = f"{gradient} {temperature:g}"
                    variants[name + ", straight-through" * hard] = {
                        "gradient": gradient,
                        "temperature": temperature,
                        "straight_through": hard,
                    }
        else:
            variants[gradient] = {"gradient": gradient}
    weights = {
        name: value
        for name, value in a_run.vae.state_dict().items()
        if not name.startswith("guide.gradient.")
    }
    for name, choices in variants.items():
        vae = fresh_vae(a_run, **choices)
        vae.load_state_dict(weights, strict=False)
        yield name, vae


def fresh_vae(a_run: Run, **choices: Any) -> VAE:
    """The run's VAE with fresh weights, and a gradient of its ELBO."""
    plain = {
        f.name: f.default for f in fields(Config) if f.name in OF_GRADIENTS
    }
    config = replace(a_run.config, **{**plain, **choices})
    data = a_run.data
    return build(config, data.data_dim, data.image_shape)


def draw(vae: VAE, x: Tensor) -> Gradient:
    """One draw of the gradient of the minibatch's mean ELBO."""
    vae.zero_grad()
    with pyro.validation_enabled(False):
        make_objective(vae).loss_and_grads(vae.model, vae.guide, x)
    return {
        block: torch.cat([-g.flatten() / len(x) for g in grads])
        for block, prefix in BLOCKS.items()
        if (
            grads := [
                parameter.grad
                for name, parameter in vae.named_parameters()
                if name.startswith(prefix) and parameter.grad is not None
            ]
        )
    }


def warm_up(vae: VAE, x: Tensor, count: int) -> None:
    """Lets a baseline learn, with the other parameters where they are."""
    baseline = getattr(vae.guide.gradient, "baseline", None)
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
    """Running sums over draws, for each block, against a reference."""

    def __init__(self, reference: "Draws | None"):
        self.reference = reference
        self.count = 0
        self.seconds: list[float] = []
        self.sums: dict[str, Tensor] = {}  # of differences, a row a group
        self.squares: dict[str, list[list[float]]] = {}
        self.along: dict[str, list[float]] = {}

    def add(self, gradient: Gradient) -> None:
        group = self.count % GROUPS
        self.count += 1
        for block, value in gradient.items():
            if block not in self.sums:
                self.sums[block] = torch.zeros(GROUPS, len(value)).double()
                self.squares[block] = [[] for _ in range(GROUPS)]
                self.along[block] = []
            value = value.double()
            if self.reference is not None:
                center = self.reference.mean(block)
                value = value - center
                along = value @ center / (center @ center)
                self.along[block].append(along.item())
            self.sums[block][group] += value
            self.squares[block][group].append((value @ value).item())

    def mean(self, block: str) -> Tensor:
        return self.sums[block].sum(0) / self.count

    def variance(self, block: str) -> float:
        """The sum over the block's entries of their variances."""
        squares = sum(map(sum, self.squares[block]))
        center = self.mean(block)
        excess = squares - self.count * (center @ center).item()
        return max(0.0, excess) / (self.count - 1)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Bias and variance, relative to the reference's square."""
        for block in self.sums:
            center = self.reference.mean(block)
            size = (center @ center).item()
            noise = self.reference.variance(block) / self.reference.count
            biases = []
            for total, squares in zip(
                self.sums[block], self.squares[block], strict=True
            ):
                pairs = len(squares) * (len(squares) - 1)
                pairwise = (total @ total).item() - sum(squares)
                biases.append((pairwise / pairs - noise) / size)
            along = np.array(self.along[block])
            of_reference = self.reference.sums[block] @ center / size
            of_reference = of_reference * GROUPS / self.reference.count
            along_variance = along.var() / len(along)
            along_variance += of_reference.var().item() / GROUPS
            yield {
                "block": block,
                "bias_along": along.mean(),
                "bias_along_se": np.sqrt(along_variance),
                "squared_bias": np.mean(biases),
                "squared_bias_se": np.std(biases, ddof=1) / GROUPS**0.5,
                "variance": self.variance(block) / size,
                "ms": 1e3 * float(np.median(self.seconds)),
                "draws": self.count,
            }


if __name__ == "__main__":
    run(main)
