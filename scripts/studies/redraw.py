"""Draws the figures of the studies again, from the tables beside them."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from amortization_figure import draw_amortization
from benchmark_figure import draw_benchmark
from gradient_estimators_figure import draw_gradient_estimators
from matplotlib.figure import Figure

from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine
from pyro_vae.cli.output import write_figure

BASELINE = "Pyro SVI, Trace_ELBO"  # of the benchmark


@dataclass(frozen=True)
class Flags:
    """The flags of the command.

    Attributes:
        folder: Folder of amortization.csv, benchmark.csv or gradients.csv, or
            of folders with some.
    """

    folder: tyro.conf.Positional[Path] = Path("results/reference")


def main(command: CommandLine[Flags]) -> None:
    """Draws a figure for each table.

    Raises:
        ValueError: If there is no table.
    """
    flags = command.parse()
    tables = [
        path for name in DRAW for path in flags.folder.rglob(f"{name}.csv")
    ]
    if not tables:
        raise ValueError(
            f"{flags.folder} holds no {', '.join(f'{n}.csv' for n in DRAW)}; "
            "expected a folder that a study wrote"
        )
    for path in tables:
        figure = DRAW[path.stem](pd.read_csv(path))
        write_figure(figure, path.with_suffix(".png"))
        print(f"wrote {path.with_suffix('.png')}")


def draw_steps(table: pd.DataFrame) -> Figure:
    """Draws the benchmark's rows that time a step; others time a fit."""
    return draw_benchmark(table[table["batch_size"].notna()], BASELINE)


DRAW = {
    "amortization": draw_amortization,
    "benchmark": draw_steps,
    "gradients": draw_gradient_estimators,
}

if __name__ == "__main__":
    run(main, Flags, __doc__)
