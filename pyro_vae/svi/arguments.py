"""The arguments of a step, as a graph sees them: tensors and plain values."""

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.svi.numbers import Numbers
from pyro_vae.svi.places import LARGEST_ARRAY, NAMESPACES, describe_plain

_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    range,
    enum.Enum,
    np.generic,
    torch.dtype,
    torch.device,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    pathlib.PurePath,
    torch.Size,
    type,
    type(...),
)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_LONGEST = 60  # characters of a value in a sentence


class Arguments:
    """The arguments of one step, taken apart into tensors and plain values.

    Args:
        args: The positional arguments.
        kwargs: The arguments by name.
        params: The place of each parameter, by its id: -1, -2, ... An
            argument may be one of them.
        numbers: Which numbers are to be inputs.

    Attributes:
        tensors: The arguments' tensors, without parameters, each one once.
        numbers: The numbers that are inputs.
        functions: The functions, whose code is the pair's, too.
        key: A value to compare: arguments with the same key have one graph.

    Raises:
        ValueError: If an argument is neither a tensor nor a plain value.
    """

    def __init__(
        self,
        args: tuple,
        kwargs: dict,
        params: Mapping[int, int],
        numbers: Numbers,
    ):
        leaves: list[Any] = []
        self._structure = _take_apart((args, kwargs), leaves)
        self._params = params
        self._places: dict[int, int] = {}
        self.tensors: list[Tensor] = []
        self.numbers: list[float] = []
        self.functions = [f for f in leaves if isinstance(f, _FUNCTIONS)]
        # The kind of a leaf, and its place or value.
        self._slots: list[tuple[str, Any]] = []
        signature: list[Any] = []
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                place = self._take_tensor(leaf)
                self._slots.append(("tensor", place))
                signature.append((place, *describe_tensor(leaf)))
            elif numbers.take((self._structure, index), leaf):
                self._slots.append(("number", len(self.numbers)))
                self.numbers.append(leaf)
                signature.append(type(leaf))
            else:
                self._slots.append(("value", leaf))
                signature.append(_describe(leaf))
        self.key = (self._structure, tuple(signature))

    def _take_tensor(self, tensor: Tensor) -> int:
        """Returns a tensor's place, a new one if it has none."""
        place = self.place_of(tensor)
        if place is not None:
            return place
        place = self._places[id(tensor)] = len(self.tensors)
        if tensor.is_conj() or tensor.is_neg():
            # A graph's inputs are what lies in memory.
            tensor = tensor.resolve_conj().resolve_neg()
        self.tensors.append(tensor)
        return place

    def place_of(self, tensor: Tensor) -> int | None:
        """Returns the place of a tensor among the arguments, or None.

        It is negative for a parameter.
        """
        place = self._params.get(id(tensor))
        return self._places.get(id(tensor)) if place is None else place

    def rebuild(
        self,
        params: Sequence[Tensor],
        tensors: Sequence[Tensor],
        numbers: Sequence[Tensor | float],
    ) -> tuple[tuple, dict]:
        """Returns `(args, kwargs)` with other tensors in their places.

        Args:
            params: The parameters, in the order that they were given in.
            tensors: One for each of the attribute `tensors`, in its order.
            numbers: The same for `numbers`.
        """
        leaves = []
        for kind, slot in self._slots:
            if kind == "value":
                leaves.append(slot)
            elif kind == "number":
                leaves.append(numbers[slot])
            else:
                leaves.append(tensors[slot] if slot >= 0 else params[-1 - slot])
        return _put_together(self._structure, iter(leaves))


def describe_tensor(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what a graph takes for granted of a tensor that is an input."""
    strides: Any = tensor.layout
    if strides == torch.strided:
        strides = None if tensor.is_contiguous() else tensor.stride()
    return (
        tensor.shape,
        tensor.dtype,
        tensor.device,
        strides,
        tensor.requires_grad,
        tensor.is_conj(),
        tensor.is_neg(),
        type(tensor),
    )


def list_methods(arguments: Any) -> list[Callable]:
    """Returns the methods of the user's dataclasses in nested arguments."""
    found: list[Callable] = []
    structures = [_take_apart(arguments, [])]
    while structures:
        structure = structures.pop()
        if structure is not None:
            kind, _, parts = structure
            structures += parts
            if dataclasses.is_dataclass(kind):
                own = vars(kind).values()
                found += [f for f in own if isinstance(f, types.FunctionType)]
    return found


def list_tensors(arguments: Any) -> list[Tensor]:
    """Returns the tensors in nested arguments, each one once."""
    leaves: list[Any] = []
    _take_apart(arguments, leaves)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return list(dict.fromkeys(tensors))


def _describe(value: Any) -> Any:
    """Returns what a plain value is compared by, at every step."""
    if isinstance(value, np.ndarray) and value.nbytes <= LARGEST_ARRAY:
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, slice):
        return (slice, value.start, value.stop, value.step)
    if isinstance(value, set | frozenset):
        return (type(value), frozenset(map(_describe, value)))
    if isinstance(value, _FUNCTIONS):
        return value
    if isinstance(value, _PLAIN):
        return describe_plain(value)
    text = repr(value)
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    raise ValueError(
        f"an argument of the step is {text}, a {type(value).__name__}; "
        "expected tensors, numbers, strings, None, functions, small arrays, "
        "and lists, tuples, dictionaries and dataclasses of them"
    )


def _take_apart(value: Any, leaves: list[Any]) -> Any:
    """Appends the leaves of nested arguments, and returns their structure.

    torch has functions for this, which know no dataclasses and take longer.
    """
    kind = type(value)
    if kind is Tensor:
        leaves.append(value)
        return None
    if kind in (list, deque) or (
        isinstance(value, tuple) and kind is not torch.Size
    ):
        return (kind, None, tuple([_take_apart(v, leaves) for v in value]))
    if kind in (dict, OrderedDict, defaultdict):
        entries = [_take_apart(entry, leaves) for entry in value.values()]
        maker = (value.default_factory,) if kind is defaultdict else ()
        return (kind, (*maker, *value), tuple(entries))
    if kind is functools.partial:
        whole = (value.func, value.args, value.keywords)
        return (kind, None, tuple([_take_apart(v, leaves) for v in whole]))
    if kind is type and value.__module__ != "builtins":
        kinds = (Tensor, int, float)
        own = {k: v for k, v in vars(value).items() if isinstance(v, kinds)}
        if own:
            parts = tuple([_take_apart(v, leaves) for v in own.values()])
            return (kind, (value, *own), parts)
    if kind in NAMESPACES:
        own = vars(value)
        parts = tuple([_take_apart(v, leaves) for v in own.values()])
        return (kind, tuple(own), parts)
    if dataclasses.is_dataclass(value) and kind is not type:
        names = tuple(field.name for field in dataclasses.fields(value))
        entries = [_take_apart(getattr(value, n), leaves) for n in names]
        return (kind, names, tuple(entries))
    leaves.append(value)
    return None


def _put_together(structure: Any, leaves: Iterator[Any]) -> Any:
    if structure is None:
        return next(leaves)
    kind, names, parts = structure
    entries = [_put_together(part, leaves) for part in parts]
    if kind is type:  # with other numbers or tensors in it
        own = dict(zip(names[1:], entries, strict=True))
        return type(names[0].__name__, names[:1], own)
    if kind is functools.partial:
        function, args, keywords = entries
        return kind(function, *args, **keywords)
    if names is None:
        is_named = hasattr(kind, "_fields")
        return kind(*entries) if is_named else kind(entries)
    if kind is defaultdict:
        return kind(names[0], zip(names[1:], entries, strict=True))
    if issubclass(kind, dict):
        return kind(zip(names, entries, strict=True))
    whole = kind.__new__(kind)  # without what __init__ wants
    for name, entry in zip(names, entries, strict=True):
        object.__setattr__(whole, name, entry)  # it may be frozen
    return whole
