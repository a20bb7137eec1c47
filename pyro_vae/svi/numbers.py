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


def as_tensor(value: float, dtype: torch.dtype) -> Tensor:
    """Returns a number as a tensor, `()`.

    Args:
        value: A float or an integer.
        dtype: The dtype of the parameters, which a float takes. An integer
            does, too, where fractions of it would be rounded to less.
    """
    is_wide = torch.promote_types(dtype, torch.get_default_dtype()) == dtype
    is_float = isinstance(value, float) or dtype != torch.get_default_dtype()
    chosen = dtype if is_float and is_wide else None
    return torch.tensor(value, dtype=chosen, device="cpu")
