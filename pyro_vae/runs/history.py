"""A run's history: its records as CSV, one row for each epoch."""

import csv
import io
import math
from pathlib import Path

from pyro_vae.files import write_atomically
from pyro_vae.runs.files import FileError
from pyro_vae.runs.manifest import check_file

HISTORY = "elbo.csv"

KEYS = {  # of every record
    "epoch",
    "step",
    "train_elbo",
    "test_elbo",
    "test_expected_log_likelihood",
    "test_kl",
    "seconds",
}

Record = dict[str, float]


def format_history(records: list[Record]) -> bytes:
    """Returns records as CSV, with all digits.

    Args:
        records: At least one; all have the keys of the first.

    Raises:
        ValueError: If a number in them is NaN or infinite.
    """
    for record in records:
        for key, value in record.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"{key} of epoch {record['epoch']:.0f} is {value}; "
                    "expected a finite number"
                )
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def write_history(path: Path, records: list[Record]) -> None:
    """Writes records as CSV, atomically and with all digits.

    Args:
        path: The file.
        records: At least one; all have the keys of the first.

    Raises:
        ValueError: If a number in them is NaN or infinite.
    """
    write_atomically(path, format_history(records))


def read_history(path: Path) -> list[Record]:
    """Reads a file that `write_history` or a fit wrote.

    Returns:
        A record for each epoch, in their order.

    Raises:
        FileError: If the file is missing, holds no history, or is not as the
            manifest beside it has it.
    """
    check_file(path)
    try:
        with open(path, newline="") as file:
            records = [
                _read_record(path, number, row)
                for number, row in enumerate(csv.DictReader(file), start=2)
            ]
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{path} cannot be read as a history: {error}; expected a file "
            "that a fit wrote"
        ) from None
    if not records or not set(records[0]) >= KEYS:
        raise FileError(
            f"{path} is no history; expected a row for each epoch of a fit, "
            f"with the columns {', '.join(sorted(KEYS))}"
        )
    return records


def _read_record(path: Path, number: int, row: dict[str, str]) -> Record:
    """Reads a line.

    Runs of version 0.1 have nan as the noise scale where there is no noise.
    """
    record = {}
    for key, text in row.items():
        try:
            value = float(text)
        except (TypeError, ValueError):
            value = math.inf
        if math.isinf(value) or (math.isnan(value) and key in KEYS):
            shown = text if isinstance(text, str | None) else key
            raise FileError(
                f"line {number} of {path} has {str(shown)[:40]!r} in the "
                f"column {str(key)[:40]!r}; expected a finite number"
            )
        record[key] = value
    return record
