"""The arguments of a step, as a graph sees them: tensors and plain values."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.svi.compat import flatten, unflatten

_PLAIN = {bool, int, float, str, type(None), torch.dtype, torch.device}


class Arguments:
    """The arguments of one step, taken apart into tensors and plain values.

    Args:
        args: The positional arguments.
        kwargs: The arguments by name.
        params: The parameters, which come before the arguments' tensors among
            a graph's inputs. An argument may be one of them.

    Attributes:
        tensors: The arguments' tensors, without parameters, each one once.
        key: A value to compare: arguments with the same key have one graph.

    Raises:
        ValueError: If an argument is neither a tensor nor a plain value.
    """

    def __init__(self, args: tuple, kwargs: dict, params: list[Tensor]):
        leaves, self._spec = flatten((args, kwargs))
        places = {id(param): index for index, param in enumerate(params)}
        self.tensors: list[Tensor] = []
        self._slots: list[tuple[bool, Any]] = []  # (is a tensor, its place)
        signature = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                self._slots.append((False, leaf))
                continue
            if id(leaf) not in places:  # one tensor given twice is one input
                places[id(leaf)] = len(params) + len(self.tensors)
                self.tensors.append(leaf.contiguous())
            place = places[id(leaf)]
            self._slots.append((True, place))
            signature.append((leaf.shape, leaf.dtype, leaf.device, place))
        values = tuple(
            (type(slot), slot)
            for is_tensor, slot in self._slots
            if not is_tensor
        )
        _check_plain(values)
        order = tuple(is_tensor for is_tensor, _ in self._slots)
        self.key = (self._spec, tuple(signature), order, values)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> tuple[tuple, dict]:
        """Returns `(args, kwargs)` with other tensors in their places.

        Args:
            tensors: A graph's inputs: the parameters, and then one tensor for
                each of the attribute `tensors`, in its order.
        """
        leaves = [
            tensors[slot] if is_tensor else slot
            for is_tensor, slot in self._slots
        ]
        return unflatten(leaves, self._spec)


def _check_plain(values: tuple[tuple[type, Any], ...]) -> None:
    for kind, value in values:
        if kind not in _PLAIN:
            raise ValueError(
                f"an argument of the step is {value!r}, a {kind.__name__}; "
                "expected tensors, numbers, strings, None, and lists, "
                "tuples and dictionaries of them"
            )
