"""A run's history: its records as CSV, one row for each epoch."""

import csv
import io
from pathlib import Path

from pyro_vae.files import write_atomically
from pyro_vae.runs.files import FileError

HISTORY = "elbo.csv"

Record = dict[str, float]


def write_history(path: Path, records: list[Record]) -> None:
    """Writes records as CSV, atomically and with all digits.

    Args:
        path: The file.
        records: At least one; all have the keys of the first.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_atomically(path, text.getvalue().encode())


def read_history(path: Path) -> list[Record]:
    """Reads a file that `write_history` wrote.

    Returns:
        A record for each epoch, in their order.

    Raises:
        FileError: If the file is missing or holds no history.
    """
    try:
        with open(path, newline="") as file:
            records = [
                {key: float(value) for key, value in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, TypeError, ValueError) as error:
        raise FileError(
            f"{path} cannot be read as a history: {error}"
        ) from None
    if not records or not {"epoch", "test_elbo"} <= set(records[0]):
        raise FileError(
            f"{path} is no history; expected a row for each epoch of a fit"
        )
    return records
