"""Python's numbers that change from step to step, as inputs of a graph.

A weight of the KL that is annealed, say, may be an argument, or an attribute
that the model reads. A number that changes once becomes a tensor, so that there
are two graphs, and not one for each value.
"""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor


class Numbers:
    """The numbers that have changed, by where they are found.

    Attributes:
        chosen: Those that are to be inputs.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, Any] = {}
        self._fixed: set[Hashable] = set()
        self.chosen: set[Hashable] = set()

    def take(self, key: Hashable, value: Any) -> bool:
        """Returns whether a value is to be an input.

        It is if it is a number, and was another one at some time.
        """
        if type(value) not in (int, float):
            return False
        last = self._last.setdefault(key, value)
        if value != last and key not in self._fixed:
            self.chosen.add(key)
        return key in self.chosen

    def fix(self) -> bool:
        """Makes the chosen ones values again, each with a graph of its own.

        Returns:
            Whether there were any.
        """
        was_any = bool(self.chosen)
        self._fixed |= self.chosen
        self.chosen.clear()
        return was_any


def as_tensor(value: float) -> Tensor:
    """Returns a number as a tensor, `()`, of the dtype that torch gives it."""
    return torch.tensor(value)
