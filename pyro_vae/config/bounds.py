"""Bounds of a single choice, written beside its type.

`epochs: Annotated[int, between(0, 10)] = 5` says what a value must be, and in
which words a refusal says so.
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SMALLEST, LARGEST = 1.1754944e-38, 3.4028234e38  # of float32's normal numbers


@dataclass(frozen=True)
class Bound:
    """What a value must be.

    Attributes:
        expected: The words after "expected" in a refusal.
        holds: Whether a value is as expected.
    """

    expected: str
    holds: Callable[[Any], bool]


def at_least(lowest: int) -> Bound:
    """Returns the bound of a whole number from `lowest` on."""
    return Bound(
        f"a whole number of at least {lowest}",
        lambda value: type(value) is int and value >= lowest,
    )


def between(lowest: int, highest: int) -> Bound:
    """Returns the bound of a whole number from `lowest` to `highest`."""
    return Bound(
        f"a whole number from {lowest} to {highest}",
        lambda value: type(value) is int and lowest <= value <= highest,
    )


def some(bound: Bound, lowest: int, highest: int) -> Bound:
    """Returns the bound of a tuple of so many values, each within a bound."""
    return Bound(
        f"{lowest} to {highest} values, each {bound.expected}",
        lambda values: (
            isinstance(values, tuple)
            and lowest <= len(values) <= highest
            and all(map(bound.holds, values))
        ),
    )


def or_none(bound: Bound) -> Bound:
    """Returns a bound that None is within, too."""
    return Bound(
        bound.expected, lambda value: value is None or bound.holds(value)
    )


def exactly(wanted: Any) -> Bound:
    """Returns the bound of one value alone."""
    return Bound(f"{wanted}", lambda value: value == wanted)


def show(value: Any) -> str:
    """Returns a value in words, of a long tuple its beginning."""
    return reprlib.repr(value) if isinstance(value, tuple) else repr(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 1e-18 <= value <= 1e18


def _fits_float32(value: Any) -> bool:
    return all(
        SMALLEST <= abs(part) <= LARGEST
        for part in (value if isinstance(value, tuple) else (value,))
        if isinstance(part, float) and part != 0
    )


FLOAT32 = Bound(
    f"0, or a number from {SMALLEST:.2g} to {LARGEST:.2g} in magnitude, as "
    "float32 holds it",
    _fits_float32,
)
# float32 holds these numbers, their squares and their inverses.
POSITIVE = Bound("a positive number, from 1e-18 to 1e18", _is_positive)
ORDER = Bound(
    "a number from -1e18 to 1e18",
    lambda value: _is_number(value) and abs(value) <= 1e18,
)
NOT_NEGATIVE = Bound(
    "0, or a positive number from 1e-18 to 1e18",
    lambda value: value == 0 or _is_positive(value),
)
FRACTION = Bound(
    "a number between 0 and 1",
    lambda value: _is_positive(value) and value < 1,
)
SEED = Bound(
    "a whole number from 0 to 2**31 - 1",
    lambda value: type(value) is int and 0 <= value < 2**31,
)
DEGREES_OF_FREEDOM = Bound(
    "a positive number up to 1000, above which the prior is a normal",
    lambda value: _is_positive(value) and value <= 1000,
)
# What is made one by one, and what is counted, is bounded here; the memory that
# sizes need together is estimated in sizes.py.
MAX_LAYERS = 1000
SIZE = between(1, 100_000)
SIZES = some(SIZE, 0, MAX_LAYERS)
SIZES_FROM_1 = some(SIZE, 1, MAX_LAYERS)
SIDES = some(SIZE, 1, 2)
COUNT = between(0, 10**9)
COUNT_FROM_1 = between(1, 10**9)
SCALE_OF_DATA = Bound(
    f"columns, or {POSITIVE.expected}",
    lambda value: value == "columns" or POSITIVE.holds(value),
)
STEPS = Bound(
    f"inf or {SIZE.expected}",
    lambda value: value == "inf" or SIZE.holds(value),
)
