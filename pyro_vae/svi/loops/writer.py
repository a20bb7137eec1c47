"""Inserts nodes in a record, described as recorded ones are."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.record import Example, read_example

FOR_LOOPS = "for loops"  # marks a node that torch must not run


class Writer:
    """Inserts nodes where the graph is told to."""

    def __init__(self, graph: fx.Graph):
        self.graph = graph

    def call(self, target: Callable, like: Example, *args: Any) -> fx.Node:
        """Calls an operator whose result is a tensor of its own.

        Run by torch, it might lie in another order.
        """
        node = self.graph.call_function(target, args)
        node.meta["example"] = like._replace(source=None, shift=0)
        node.meta[FOR_LOOPS] = True
        return node

    def map(self, target: Callable, first: fx.Node, *others: Any) -> fx.Node:
        """Calls an elementwise operator, with its first operand's shape."""
        like = in_order(read(first), read(first).shape)
        return self.call(target, like, first, *others)

    def reduce(
        self, target: Callable, given: fx.Node, dims: Sequence[int]
    ) -> fx.Node:
        """Reduces dimensions to one element each."""
        known = read(given)
        reduced = {dim % len(known.shape) for dim in dims}
        shape = [
            1 if dim in reduced else size
            for dim, size in enumerate(known.shape)
        ]
        like = in_order(known, shape)
        return self.call(target, like, given, list(dims), True)

    def make(self, like: Example) -> fx.Node:
        """Makes a tensor with nothing in it yet."""
        node = self.graph.call_function(
            aten.empty_strided.default,
            (like.shape, like.strides),
            {"dtype": like.dtype, "device": like.device},
        )
        node.meta["example"] = like._replace(source=None, shift=0)
        return node

    def view(
        self,
        whole: fx.Node,
        shape: Sequence[int],
        strides: Sequence[int],
        start: int,
    ) -> fx.Node:
        """Returns a part of a new tensor."""
        view = self.graph.call_function(
            aten.as_strided.default,
            (whole, tuple(shape), tuple(strides), start),
        )
        view.meta["example"] = read(whole)._replace(
            shape=tuple(shape), strides=tuple(strides), source=0, shift=start
        )
        return view

    def change(self, target: Callable, part: fx.Node, *args: Any) -> fx.Node:
        """Changes a part of a new tensor in place."""
        node = self.graph.call_function(target, (part, *args))
        node.meta["example"] = read(part)._replace(source=0, shift=0)
        return node


def read(node: fx.Node) -> Example:
    example = read_example(node)
    assert example is not None
    return example


def in_order(like: Example, shape: Sequence[int]) -> Example:
    """Describes a new tensor of another shape, in the usual order."""
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    return like._replace(
        shape=tuple(shape), strides=tuple(strides), source=None, shift=0
    )
