"""The arguments of a step, as a graph sees them: tensors, and all else."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_PLAIN = {bool, int, float, str, type(None), torch.dtype, torch.device}


class Arguments:
    """The arguments of one step, taken apart: tensors, and all else."""

    def __init__(self, args: tuple, kwargs: dict, params: list[Tensor]):
        leaves, self.spec = pytree.tree_flatten((args, kwargs))
        places = {id(param): index for index, param in enumerate(params)}
        self.tensors: list[Tensor] = []
        self.slots: list[tuple[bool, Any]] = []
        signature = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                self.slots.append((False, leaf))
                continue
            if id(leaf) not in places:  # one tensor given twice is one input
                places[id(leaf)] = len(params) + len(self.tensors)
                self.tensors.append(leaf.contiguous())
            place = places[id(leaf)]
            self.slots.append((True, place))
            signature.append((leaf.shape, leaf.dtype, leaf.device, place))
        values = tuple(
            (type(slot), slot)
            for is_tensor, slot in self.slots
            if not is_tensor
        )
        for kind, value in values:
            if kind not in _PLAIN:
                raise ValueError(
                    f"an argument of the step is {value!r}, a {kind.__name__}; "
                    "expected tensors, numbers, strings, None, and lists, "
                    "tuples and dictionaries of them"
                )
        order = tuple(is_tensor for is_tensor, _ in self.slots)
        self.key = (self.spec, tuple(signature), order, values)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> tuple[tuple, dict]:
        """Puts the arguments together again, of a graph's inputs."""
        leaves = [
            tensors[slot] if is_tensor else slot
            for is_tensor, slot in self.slots
        ]
        return pytree.tree_unflatten(leaves, self.spec)
