"""The report of a sweep: means over seeds, standard errors, and a figure."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyro_vae import figures
from pyro_vae.cli import compare
from pyro_vae.cli.output import write_figure, write_table
from pyro_vae.cli.sweep_fits import is_complete, read_error
from pyro_vae.cli.sweep_grid import Point

MEANS = ("test_elbo", "test_expected_log_likelihood", "test_kl")
TABLE, FIGURE = "report.csv", "report.png"


def write_report(points: list[Point], output: Path) -> pd.DataFrame:
    """Writes a sweep's table and figure, and returns the table.

    A row is a group of points that differ in the seed alone. Its numbers are of
    those that are complete, in nats per image.

    Args:
        points: All points of the sweep.
        output: The sweep's folder.
    """
    runs = {
        point.name: compare.read_run(output / point.name)
        for point in points
        if is_complete(point, output)
    }
    groups = group(points)
    complete = {
        label: [runs[point.name] for point in of if point.name in runs]
        for label, of in groups.items()
    }
    drawn = {label: of for label, of in complete.items() if of}
    seconds = min(
        (run.history["seconds"][-1] for run in runs.values()), default=math.nan
    )
    sentences = compare.incomparable(drawn) if drawn else []
    sentences += compare.unequal(list(runs.values()), seconds)
    for sentence in sentences:
        warnings.warn(sentence, stacklevel=2)
    rows = [
        {
            **make_row(label, complete[label], seconds),
            **count_rest(of, output, set(runs)),
        }
        for label, of in groups.items()
    ]
    table = pd.DataFrame(rows)
    write_table(table, output / TABLE)
    if drawn:
        histories = {
            label: [run.history for run in of] for label, of in drawn.items()
        }
        write_figure(figures.compare_histories(histories), output / FIGURE)
    return table


def group(points: list[Point]) -> dict[str, list[Point]]:
    """Groups points that differ in the seed alone, by the other flags."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        swept = [part.split("=", 1) for part in point.name.split(",")]
        label = ", ".join(
            f"{flag} {value}" for flag, value in swept if flag != "seed"
        )
        groups.setdefault(label or "all", []).append(point)
    return groups


def make_row(
    label: str, runs: list[compare.Compared], seconds: float
) -> dict[str, Any]:
    """Returns the means of a group's complete runs, with standard errors."""
    if not runs:
        return {"run": label, "seeds": 0}
    row = compare.row(label, runs, seconds)
    del row["test_elbo_std"]
    found: dict[str, Any] = {}
    for name, value in row.items():
        found[name] = value
        if name in MEANS:
            last = row["epochs"]
            values = [run.history[name][last] for run in runs]
            found[f"{name}_standard_error"] = standard_error(values)
    return found


def standard_error(values: list[float]) -> float:
    """Returns the standard error of a mean; NaN of a single value."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def count_rest(
    points: list[Point], output: Path, complete: set[str]
) -> dict[str, Any]:
    """Returns how many points of a group have failed, or have not ended."""
    errors = {
        point.name: error
        for point in points
        if point.name not in complete
        and (error := read_error(point, output)) is not None
    }
    return {
        "unfinished": len(
            [p for p in points if p.name not in {*complete, *errors}]
        ),
        "failed": len(errors),
        "error": "; ".join(f"{name}: {e}" for name, e in errors.items()),
    }


def show(table: pd.DataFrame) -> str:
    """Returns the numbers of a report, and the errors as sentences."""
    shown = ["run", "seeds", "epochs", "test_elbo", "test_elbo_standard_error"]
    shown += ["test_kl", "test_kl_standard_error", "unfinished", "failed"]
    found = table.reindex(columns=shown)
    text: str = found.to_string(
        index=False, float_format="{:.2f}".format, na_rep=""
    )
    return "\n".join([text, *(error for error in table["error"] if error)])
