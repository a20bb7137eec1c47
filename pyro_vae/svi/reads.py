"""The values that a pair's code reads in Python's objects, at some time."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.svi.numbers import Numbers
from pyro_vae.svi.places import CONSTANT, LARGEST, PLAIN, Place, Reader


class _Same:
    """Compares as equal for one and the same object alone, and keeps it."""

    __slots__ = ("value",)

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def freeze(value: Any, depth: int = 3) -> Any:
    """Returns something hashable that changes whenever a value does.

    Numbers, strings and the like count by value, and so do the entries of
    small lists, tuples, sets and dictionaries. Anything else, a tensor too,
    counts by identity.
    """
    if isinstance(value, PLAIN):
        # A NaN is equal to nothing; 1, 1.0 and True are equal to each other.
        return (type(value), repr(value) if value != value else value)
    if isinstance(value, CONSTANT):
        return value
    if depth and isinstance(value, list | tuple | set | frozenset | dict):
        if len(value) > LARGEST:
            return (len(value), _Same(value))
        if isinstance(value, dict):
            value = [(key, freeze(v, depth - 1)) for key, v in value.items()]
            return (dict, tuple((freeze(k, depth - 1), v) for k, v in value))
        entries = [freeze(entry, depth - 1) for entry in value]
        if isinstance(value, set | frozenset):
            return (type(value), frozenset(entries))
        return (type(value), tuple(entries))
    return _Same(value)


class Reads:
    """The places that a pair reads, and what is in them.

    Args:
        roots: The model, the guide and other callables.

    Attributes:
        places: The places, by the id of what holds them and their name.
        holders: The ids of the holders, also of those without a place.
        modules: The modules that the code comes by.
        token: A hashable value, another one whenever a value read is. Tensors
            count by their shape, dtype and layout alone: they are inputs of a
            graph.
        tensors: The tensors that places hold, each one once.
        numbers: The numbers that are inputs of a graph, with their places.
    """

    def __init__(self, *roots: Any, numbers: Numbers | None = None):
        self._chooser = Numbers() if numbers is None else numbers
        self._reader = Reader(roots)  # which keeps the holders alive
        self.places, self.holders = self._reader.places, self._reader.holders
        self.modules = self._reader.modules
        self._getters = [place.get for place in self.places.values()]
        # No value is this object, so that the first look reads all of them.
        self._values: list[Any] = [_NOTHING] * len(self._getters)
        self._has_containers = False
        self.token: Any = ()
        self.tensors: list[Tensor] = []
        self.numbers: list[tuple[Place, float]] = []
        self.look()

    def look(self) -> None:
        """Reads the places anew.

        Where all values are the same objects as before, and none of them is a
        container, only their identity is looked at.
        """
        values = [get() for get in self._getters]
        is_same = all(map(operator.is_, values, self._values))
        if is_same and not self._has_containers:
            return
        self._values = values
        self._has_containers = any(isinstance(v, _MUTABLE) for v in values)
        self.numbers, token = [], []
        for (key, place), value in zip(
            self.places.items(), values, strict=True
        ):
            if self._chooser.take(key, value):
                self.numbers.append((place, value))
                token.append(type(value))
            else:
                token.append(_describe(value))
        self.token = tuple(token)
        tensors = [value for value in values if isinstance(value, Tensor)]
        self.tensors = list(dict.fromkeys(tensors))

    def forget(self) -> None:
        """Makes the next look one at all values."""
        self._values = [_NOTHING] * len(self._getters)

    def snapshot(self) -> "Snapshot":
        """Returns what is in the places now."""
        return Snapshot(self.places)


class Snapshot:
    """The values of places at a time.

    Attributes:
        values: The values, by the keys of `Reads.places`.
        frozen: The same, as `freeze` returns them.
    """

    def __init__(self, places: Mapping[tuple[int, str], Place]):
        self.values = {key: place.get() for key, place in places.items()}
        self.frozen = {key: freeze(value) for key, value in self.values.items()}

    def fill_in(self, reads: Reads, later: "Snapshot") -> None:
        """Adds places that were found later.

        Of a holder that was known there was nothing by that name; of another
        one it is not known, and taken to have been the same.
        """
        for key in later.values.keys() - self.values.keys():
            is_known = key[0] in reads.holders
            self.values[key] = None if is_known else later.values[key]
            self.frozen[key] = _NOTHING if is_known else later.frozen[key]


_NOTHING = object()
_MUTABLE = (list, dict, set)


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        layout = value.stride() if value.layout == torch.strided else None
        return (value.shape, value.dtype, value.device, layout)
    return freeze(value)
