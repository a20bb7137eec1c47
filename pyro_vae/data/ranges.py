"""The range of stored numbers, in types that torch knows."""

from typing import NamedTuple

import numpy as np

from pyro_vae.data.sources import Source

SAMPLE = 1000  # rows that are looked at, where a source is not in memory


class Range(NamedTuple):
    """The smallest and the largest number of a source, NaN left out.

    Attributes:
        low: The smallest.
        high: The largest.
        is_whole: Whether all rows were looked at.
        num_missing: How many numbers are NaN.
    """

    low: float
    high: float
    is_whole: bool
    num_missing: int


def find_range(source: Source) -> Range:
    """Returns the range of a source's numbers: of all, or of a sample."""
    length = source.shape[0]
    is_whole = source.is_in_memory or length <= SAMPLE
    count = length if is_whole else SAMPLE
    rows = np.linspace(0, length - 1, count).round().astype(np.int64)
    found = to_native(source.gather(rows))
    missing = 0
    if np.issubdtype(found.dtype, np.floating):
        missing = int(np.isnan(found).sum())
        found = found[~np.isnan(found)] if missing else found
    if found.size == 0:
        return Range(0.0, 0.0, is_whole, missing)
    return Range(float(found.min()), float(found.max()), is_whole, missing)


def to_native(array: np.ndarray) -> np.ndarray:
    """Returns an array in a type that torch knows.

    It knows neither long doubles nor another machine's byte order.
    """
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return array.astype(np.int64 if array.dtype.itemsize < 8 else float)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
