"""evaluation.csv: written row by row, and checked against the run beside it."""

import warnings
from pathlib import Path

import pandas as pd

from pyro_vae.cli.evaluation_table import COLUMNS, Rows
from pyro_vae.cli.output import write_table
from pyro_vae.runs.folder import EVALUATION


class EvaluationFile:
    """The table of an evaluation, which is whole on disk after each addition.

    Args:
        path: The file.
        epoch: The epoch of the weights; None if it is not known.
    """

    def __init__(self, path: Path, epoch: int | None):
        self.path, self.epoch = path, epoch
        self.rows: Rows = []

    def add(self, rows: Rows) -> None:
        """Adds rows, writes the file, and prints the rows that are summaries.

        Args:
            rows: Rows with some of the columns of `evaluation_table`.
        """
        self.rows += [{**row, "epoch": self.epoch} for row in rows]
        table = pd.DataFrame(self.rows, columns=list(COLUMNS))
        for name in ("image", "images", "epoch"):  # empty in some rows
            table[name] = table[name].astype("Int64")
        write_table(table, self.path)
        for row in rows:
            if "image" not in row:
                print(_format(row))

    def describe(self) -> str:
        """Returns what has been written so far, in words."""
        if not self.rows:
            return "nothing was written: give the same command to start again"
        names = ", ".join(dict.fromkeys(row["what"] for row in self.rows))
        return f"{self.path} has what was done: {names}"


def warn_of_older(folder: Path, epoch: int) -> None:
    """Warns if the evaluation in a run's folder is of other weights.

    Args:
        folder: The run's folder.
        epoch: The epoch of the run's weights.

    Warns:
        UserWarning: If evaluation.csv is of another epoch, or does not say of
            which.
    """
    path = folder / EVALUATION
    if not path.is_file():
        return
    try:
        epochs = pd.read_csv(path)["epoch"].dropna().unique().tolist()
    except (OSError, ValueError, KeyError):
        epochs = []
    if epochs == [epoch]:
        return
    found = " and ".join(f"{found:g}" for found in epochs)
    found = f"of epoch {found}" if found else "of an epoch that it does not say"
    warnings.warn(
        f"{path} and the figures of that evaluation are {found}, and the run's "
        f"weights are of epoch {epoch}: evaluate the run again",
        stacklevel=2,
    )


def _format(row: dict) -> str:
    """Returns a summary in one line."""
    line = f"{row['what']:<31} {row['value']:>10.4g}"
    if row.get("standard_error") is not None:
        line += f" ± {row['standard_error']:.2g}"
    notes = [f"{row['images']} images"]
    if row.get("effective_sample_size") is not None:
        notes.append(f"{row['effective_sample_size']:.1f} effective samples")
    if row.get("tolerance"):
        notes.append(f"each to {row['tolerance']:.1g}")
    if row.get("seconds", 0) > 0:
        notes.append(f"{row['seconds']:.0f} s")
    return f"{line}  ({', '.join(notes)})"
