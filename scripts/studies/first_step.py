"""Times the first step of a pair in new processes, and the second.

With Pyro's SVI, and with CompiledSVI whose cache of compiled loops and measured
kernels is empty (cold) or filled (warm). Imports of the packages, and what
makes the pair, do not count. Writes first_step.csv, with the median of each.
"""

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from machine import describe_machine, describe_versions
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

from pyro_vae import CompiledSVI, Config, build
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_table

CSV = "first_step.csv"
SVIS = {"Pyro SVI": SVI, "compiled": CompiledSVI}

Pair = tuple[Callable, Callable, tuple[Any, ...]]  # with what it steps on


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        output: Folder for first_step.csv.
        rounds: Processes that each median is of.
    """

    output: Path = Path("results/first_step")
    rounds: int = 5


def main(command: CommandLine[Flags]) -> None:
    """Times all, in turns, and writes the table."""
    flags = command.parse()
    check_at_least_1(flags, "rounds")
    times: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for _ in range(flags.rounds):
        for program in PROGRAMS:
            for key, pair in time_all(program):
                times.setdefault((program, *key), []).append(pair)
    rows = []
    for (program, svi, cache), pairs in times.items():
        first, second = map(statistics.median, zip(*pairs, strict=True))
        rows.append(
            {
                "program": program,
                "svi": svi,
                "cache": cache,
                "first_s": first,
                "second_s": second,
                "rounds": len(pairs),
                "machine": describe_machine(),
                "versions": describe_versions(),
            }
        )
    table = pd.DataFrame(rows)
    flags.output.mkdir(parents=True, exist_ok=True)
    write_table(table, flags.output / CSV)
    print("\n".join(write_lines(table)))


def time_all(
    program: str,
) -> list[tuple[tuple[str, str], tuple[float, float]]]:
    """Returns the times with each SVI and cache: once, one after the other."""
    with (
        TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}),
    ):
        return [
            ((svi, cache), _in_a_new_process(program, svi))
            for svi, cache in (
                ("Pyro SVI", ""),
                ("compiled", "cold"),
                ("compiled", "warm"),
            )
        ]


def _in_a_new_process(program: str, svi: str) -> tuple[float, float]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(time_steps, program, svi).result()


def time_steps(program: str, svi: str) -> tuple[float, float]:
    """Returns the seconds that the first two steps take."""
    torch.manual_seed(0)
    model, guide, given = PROGRAMS[program]()
    made: Any = SVIS[svi](model, guide, Adam({"lr": 1e-3}), Trace_ELBO())
    times = []
    for _ in range(2):
        started = time.perf_counter()
        made.step(*given)
        times.append(time.perf_counter() - started)
    return times[0], times[1]


def make_vae() -> Pair:
    """Makes the default VAE, on a minibatch of 128 images."""
    vae = build(Config(), 784)
    return vae.model, vae.guide, (torch.rand(128, 784),)


def make_regression() -> Pair:
    """Makes a Bayesian regression of 50 rows, with an AutoNormal guide."""

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        weight = pyro.sample(
            "weight", dist.Normal(torch.zeros(3), 1.0).to_event(1)
        )
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ weight, 0.5), obs=y)

    x = torch.randn(50, 3)
    return model, AutoNormal(model), (x, x.sum(1))


PROGRAMS = {"784-512-2, batch 128": make_vae, "regression": make_regression}


def write_lines(table: pd.DataFrame) -> list[str]:
    """Returns the table in Markdown."""
    lines = ["| program | SVI | cache | first step, s | second, s |"]
    lines.append("|---|---|---|---|---|")
    for row in table.itertuples():
        lines.append(
            f"| {row.program} | {row.svi} | {row.cache} | {row.first_s:.2f} | "
            f"{row.second_s:.2f} |"
        )
    return lines


if __name__ == "__main__":
    run(main, Flags, __doc__)
