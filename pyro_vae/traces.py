"""A run's records as CSV, a row an epoch."""

import csv
import io
from pathlib import Path

from pyro_vae.checkpoints import FileError, write_atomically

TRACE = "elbo.csv"

Record = dict[str, float]


def write_trace(path: Path, records: list[Record]) -> None:
    """Writes records as CSV, atomically, every number in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_atomically(path, text.getvalue().encode())


def read_trace(path: Path) -> list[Record]:
    """Reads what `write_trace` wrote.

    Raises:
        FileError: If the file is missing or no trace.
    """
    try:
        with open(path, newline="") as file:
            records = [
                {key: float(value) for key, value in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, TypeError, ValueError) as error:
        raise FileError(f"{path} cannot be read as a trace: {error}") from None
    if not records or not {"epoch", "test_elbo"} <= set(records[0]):
        raise FileError(
            f"{path} is no trace; expected one row an epoch that fit wrote"
        )
    return records
