"""Running a pair without leaving a trace: all that it changes is put back."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.svi.places import Place
from pyro_vae.svi.random_states import get_random_states, set_random_states


class Undo:
    """The state that running a pair may change, kept to be put back.

    Args:
        tensors: Tensors that may be changed in place: arguments, buffers, and
            those that the pair's code reads elsewhere.
        places: The places that its code reads.
    """

    def __init__(self, tensors: Iterable[Tensor], places: Iterable[Place]):
        self._torch = get_random_states()
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._tensors = [(tensor, tensor.clone()) for tensor in tensors]
        self._values = [
            (place, value, _copy(value))
            for place, value in [(place, place.get()) for place in places]
        ]

    def restore(self) -> None:
        """Puts everything back: random states, tensors and values."""
        self.restore_random_states()
        self.restore_tensors()
        self.restore_values()

    def restore_tensors(self) -> None:
        """Puts back the contents of the tensors alone."""
        for tensor, value in self._tensors:
            # Batch norm writes without a change of the tensor's version.
            if not torch.equal(tensor, value):
                tensor.detach().copy_(value)

    def restore_values(self) -> None:
        """Puts back the values in the places, and the entries of containers."""
        for place, value, content in self._values:
            if place.get() is not value:
                place.put(value)
            _refill(value, content)

    def restore_random_states(self) -> None:
        """Puts back the random states of torch, Python and NumPy alone."""
        set_random_states(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)


def _copy(value: Any) -> Any:
    """Returns a copy of a container's entries, or a generator's state."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    return type(value)(value) if type(value) in (list, dict, set) else None


def _refill(value: Any, content: Any) -> None:
    """Gives a container or a generator back what it had."""
    if isinstance(value, torch.Generator):
        value.set_state(content)
    elif isinstance(content, list):
        value[:] = content
    elif content is not None:
        value.clear()
        value.update(content)
