"""Running a pair without leaving a trace: all that it changes is put back."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.svi.equality import are_equal
from pyro_vae.svi.places import CONTAINERS, DEEPEST, LARGEST, Place, fields_of
from pyro_vae.svi.random_states import get_random_states, set_random_states
from pyro_vae.svi.reads import copy_iterator, freeze, is_iterator


class Undo:
    """The state that running a pair may change, kept to be put back.

    Args:
        values: Tensors that may be changed in place: arguments, buffers; and
            containers that may be changed, with what is in small ones.
        places: The places that the pair's code reads.
        has_tensors: Whether tensors' contents are kept, too.
    """

    def __init__(
        self,
        values: Iterable[Any],
        places: Iterable[Place] = (),
        has_tensors: bool = True,
    ):
        self._torch = get_random_states()
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._places = [(place, place.get()) for place in places]
        self._iterators = [
            (place, copied, freeze(value, exact=True))
            for place, value in self._places
            if is_iterator(value)
            and (copied := copy_iterator(value)) is not None
        ]
        own = [value for _, value in self._places]
        found = {id(part): part for part in _walk([*values, *own])}
        self._tensors = [
            (part, part.detach().clone())
            for part in found.values()
            if has_tensors and isinstance(part, Tensor)
        ]
        self._others = [
            (part, _keep(part))
            for part in found.values()
            if not isinstance(part, Tensor)
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
            if tensor.layout != torch.strided or not are_equal(tensor, value):
                tensor.detach().copy_(value)

    def restore_values(self) -> None:
        """Puts back the values in the places, and what is in containers."""
        for place, value in self._places:
            if place.get() is not value:
                place.put(value)
        for place, iterator, state in self._iterators:
            if freeze(place.get(), exact=True) != state:
                place.put(copy_iterator(iterator))
        for _, put_back in self._others:
            put_back()

    def restore_random_states(self) -> None:
        """Puts back the random states of torch, Python and NumPy alone."""
        set_random_states(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)


def _walk(values: Iterable[Any], depth: int = DEEPEST) -> Iterator[Any]:
    """Yields what can be changed in place, also inside of containers."""
    for value in values:
        if isinstance(value, (Tensor, *_KEEPERS)):
            yield value
        if not depth:
            continue
        if isinstance(value, dict) and len(value) <= LARGEST:
            yield from _walk(value.values(), depth - 1)
        elif isinstance(value, CONTAINERS) and len(value) <= LARGEST:
            yield from _walk(value, depth - 1)
        elif fields_of(value):
            yield from _walk([fields_of(value)], depth - 1)


def _keep(value: Any) -> Callable[[], object]:
    """Returns what gives a value its contents of now back."""
    keep = next(k for kind, k in _KEEPERS.items() if isinstance(value, kind))
    return keep(value)


def _keep_list(value: Any) -> Callable[[], None]:
    entries = list(value)

    def put_back() -> None:
        value.clear()
        value.extend(entries)

    return put_back


def _keep_table(value: Any) -> Callable[[], None]:
    entries = value.copy()

    def put_back() -> None:
        value.clear()
        value.update(entries)

    return put_back


def _keep_array(value: np.ndarray) -> Callable[[], None]:
    kept = value.copy() if value.flags.writeable else None

    def put_back() -> None:
        if kept is not None and value.tobytes() != kept.tobytes():
            np.copyto(value, kept)

    return put_back


def _keep_bytes(value: bytearray) -> Callable[[], None]:
    kept = bytes(value)

    def put_back() -> None:
        value[:] = kept

    return put_back


def _keep_torch_generator(value: torch.Generator) -> Callable[[], object]:
    return partial(value.set_state, value.get_state())


def _keep_generator(value: random.Random) -> Callable[[], None]:
    return partial(value.setstate, value.getstate())


def _keep_numpy_state(value: np.random.RandomState) -> Callable[[], None]:
    return partial(value.set_state, value.get_state())


def _keep_numpy_generator(value: np.random.Generator) -> Callable[[], None]:
    source = value.bit_generator
    return partial(setattr, source, "state", source.state)


_KEEPERS: dict[type, Callable[[Any], Callable[[], object]]] = {
    list: _keep_list,
    deque: _keep_list,
    dict: _keep_table,
    set: _keep_table,
    np.ndarray: _keep_array,
    bytearray: _keep_bytes,
    torch.Generator: _keep_torch_generator,
    random.Random: _keep_generator,
    np.random.RandomState: _keep_numpy_state,
    np.random.Generator: _keep_numpy_generator,
}
