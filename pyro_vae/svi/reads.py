"""The values that a pair's code reads in Python's objects, at some time."""

import copy
import io
import pickle
import random
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_vae.svi.arguments import describe_tensor
from pyro_vae.svi.equality import are_same
from pyro_vae.svi.numbers import Numbers
from pyro_vae.svi.places import (
    CONSTANT,
    CONTAINERS,
    DEEPEST,
    LARGEST,
    LARGEST_ARRAY,
    NOTHING,
    PLAIN,
    Place,
    describe_plain,
    fields_of,
    is_foreign,
)
from pyro_vae.svi.reader import Reader

_ARRAYS = (np.ndarray, bytearray)
_RANDOM = (np.random.Generator, np.random.RandomState, random.Random)


class _Same:
    """Compares as equal for one and the same object alone, and keeps it."""

    __slots__ = ("value",)

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Entries:
    """Compares as equal for the same objects in the same order."""

    __slots__ = ("values",)

    def __init__(self, values: tuple[Any, ...]):
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Entries) and are_same(
            self.values, other.values
        )

    def __hash__(self) -> int:
        return len(self.values)


class _Token:
    """A tuple whose hash is computed once."""

    __slots__ = ("_hash", "values")

    def __init__(self, values: tuple[Any, ...]):
        self.values = values
        self._hash = hash(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Token) and self.values == other.values

    def __hash__(self) -> int:
        return self._hash


def freeze(value: Any, exact: bool = False, depth: int = DEEPEST) -> Any:
    """Returns something hashable that changes whenever a value does.

    Numbers, strings and the like count by value, and so do arrays of up to
    1 MB and the entries of containers. Anything else, a tensor too, counts by
    identity, and so do the entries of containers of more than 100.

    Args:
        value: The value.
        exact: Whether also what is costly to look at counts: large arrays, and
            the states of random generators and of iterators.
        depth: How deep containers within containers are looked into.
    """
    if isinstance(value, PLAIN):
        return describe_plain(value)
    if isinstance(value, CONSTANT):
        return value
    if isinstance(value, _ARRAYS):
        return _freeze_array(value, exact)
    if depth and isinstance(value, CONTAINERS):
        return _freeze_container(value, exact, depth - 1)
    if depth and fields_of(value):
        fields = freeze(fields_of(value), exact, depth - 1)
        return (type(value), _Same(value), fields)
    if exact and isinstance(value, _RANDOM):
        return (type(value), pickle.dumps(value))
    if exact and is_iterator(value):
        return _freeze_iterator(value)
    return _Same(value)


def _freeze_array(value: Any, exact: bool) -> Any:
    view = np.asarray(value)
    kind = (type(value), view.dtype.str, view.shape)
    if view.nbytes <= LARGEST_ARRAY:
        return (*kind, view.tobytes())
    content = zlib.crc32(view.tobytes()) if exact else 0
    return (*kind, _Same(value), content)


def _freeze_container(value: Any, exact: bool, depth: int) -> Any:
    if len(value) > LARGEST:
        keys = tuple(value) if isinstance(value, dict) else ()
        entries = tuple(value.values() if keys else value)
        return (type(value), _Entries(keys), _Entries(entries))
    if isinstance(value, dict):
        keys = tuple([freeze(key, exact, depth) for key in value])
        entries = tuple(value.values())
    else:
        keys, entries = (), tuple(value)
    frozen = [freeze(entry, exact, depth) for entry in entries]
    is_set = isinstance(value, set | frozenset)
    return (type(value), keys, frozenset(frozen) if is_set else tuple(frozen))


def is_iterator(value: Any) -> bool:
    """Returns whether a value is an iterator of Python's or of a library."""
    if isinstance(value, io.IOBase | type):
        return False
    kind = type(value)
    return hasattr(kind, "__next__") and is_foreign(kind.__module__)


def _freeze_iterator(value: Any) -> Any:
    """Returns where an iterator is; something equal to nothing if unknown."""
    try:
        return (_Same(value), freeze(value.__reduce__()[1:], exact=True))
    except TypeError:
        return object()


def copy_iterator(value: Any) -> Any:
    """Returns an iterator that goes on alike, or None if there is no way."""
    try:
        return copy.copy(value)
    except TypeError:
        return None


def _can_change(value: Any) -> bool:
    """Returns whether a value may change while it is the same object."""
    if isinstance(value, tuple | frozenset):
        return any(map(_can_change, value))
    if isinstance(value, (*CONTAINERS, *_ARRAYS)):
        return True
    return bool(fields_of(value))


class Reads:
    """The places that a pair reads, and what is in them.

    Args:
        roots: The model, the guide and other callables.

    Attributes:
        places: The places, by the id of what holds them and their name.
        holders: The ids of the holders, also of those without a place.
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
        self._getters = [place.get for place in self.places.values()]
        # No value is this object, so that the first look reads all of them.
        self._values: list[Any] = [_UNREAD] * len(self._getters)
        self._changing: list[Any] = []  # of the values, what can change
        self._frozen: list[Any] = []  # what these were
        self.token: Any = ()
        self.tensors: list[Tensor] = []
        self.numbers: list[tuple[Place, float]] = []
        self.look()

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that the code comes by."""
        return self._reader.modules

    @property
    def spaces(self) -> list[dict[str, Any]]:
        """The attributes of the objects that the code comes by."""
        return self._reader.spaces

    def look(self) -> None:
        """Reads the places anew.

        Where all values are the same objects as before, only those are looked
        at which can change nevertheless.
        """
        values = [get() for get in self._getters]
        if are_same(values, self._values) and (
            not self._changing or [*map(freeze, self._changing)] == self._frozen
        ):
            return
        self._values = values
        self._changing = [value for value in values if _can_change(value)]
        self._frozen = [*map(freeze, self._changing)]
        self.numbers, token = [], []
        for (key, place), value in zip(
            self.places.items(), values, strict=True
        ):
            if self._chooser.take(key, value):
                self.numbers.append((place, value))
                token.append(type(value))
            else:
                token.append(_describe(value))
        self.token = _Token(tuple(token))
        tensors = [value for value in values if isinstance(value, Tensor)]
        self.tensors = list(dict.fromkeys(tensors))

    def forget(self) -> None:
        """Makes the next look one at all values."""
        self._values = [_UNREAD] * len(self._getters)


class Snapshot:
    """The values of places at a time.

    Attributes:
        values: The values, by the keys of `Reads.places`.
        frozen: The same, as `freeze` returns them.
    """

    def __init__(self, places: Mapping[tuple[int, str], Place]):
        self.values = {key: place.get() for key, place in places.items()}
        self.frozen = {
            key: freeze(value, exact=True) for key, value in self.values.items()
        }

    def fill_in(self, reads: Reads, later: "Snapshot") -> None:
        """Adds places that were found later.

        Of a holder that was known there was nothing by that name; of another
        one it is not known, and taken to have been the same.
        """
        for key in later.values.keys() - self.values.keys():
            is_known = key[0] in reads.holders
            self.values[key] = NOTHING if is_known else later.values[key]
            self.frozen[key] = _UNREAD if is_known else later.frozen[key]


_UNREAD = object()


def _describe(value: Any) -> Any:
    return (
        describe_tensor(value) if isinstance(value, Tensor) else freeze(value)
    )
