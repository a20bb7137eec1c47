"""Bounds of a single choice, written beside its type.

`epochs: Annotated[int, at_least(0)] = 20` says what a value must be, and in
which words a refusal says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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


def each_at_least(lowest: int, count: int = 0) -> Bound:
    """Returns the bound of a tuple of at least `count` whole numbers."""
    words = f"whole numbers of at least {lowest}"
    holds = at_least(lowest).holds
    return Bound(
        f"{count} or more {words}" if count else words,
        lambda values: len(values) >= count and all(map(holds, values)),
    )


def or_none(bound: Bound) -> Bound:
    """Returns a bound that None is within, too."""
    return Bound(
        bound.expected, lambda value: value is None or bound.holds(value)
    )


def exactly(wanted: Any) -> Bound:
    """Returns the bound of one value alone."""
    return Bound(f"{wanted}", lambda value: value == wanted)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 1e-18 <= value <= 1e18


# float32 holds these numbers, their squares and their inverses.
POSITIVE = Bound("a positive number, from 1e-18 to 1e18", _is_positive)
ORDER = Bound(
    "a number from -1e18 to 1e18",
    lambda value: _is_number(value) and abs(value) <= 1e18,
)
NOT_NEGATIVE = Bound(
    "a number of at least 0", lambda value: value == 0 or _is_positive(value)
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
STEPS = Bound(
    "inf or a whole number of at least 1",
    lambda value: value == "inf" or at_least(1).holds(value),
)
