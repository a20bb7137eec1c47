"""A loop over the elements of a shape.

It reads tensors, computes one or more expressions for each element, and keeps
each of them, or reduces it over some dimensions of the shape.
"""

from dataclasses import dataclass

import torch
from torch import fx

from pyro_vae.svi.loops.layout import Access, Shape


@dataclass(frozen=True)
class Operand:
    """An element of a tensor, or a number in C, cast to a dtype."""

    source: Access | str
    dtype: torch.dtype


@dataclass(frozen=True)
class Result:
    """An expression, and where its values, or their reductions, go.

    Attributes:
        expression: C, with `{0}` and so on for the loop's operands.
        offset: The first element in the node's tensor.
        strides: In each dimension of the loop; 0 in those that are reduced.
    """

    expression: str
    offset: int
    strides: Shape


@dataclass(frozen=True)
class Loop:
    """What one node computes.

    Attributes:
        node: The node.
        shape: What is looped over.
        operands: What is read.
        results: What is computed; several for a narrow matrix product, and
            none where only memory is wanted.
        dtype: Of the results.
        reduction: None for elementwise results, or `sum`, `mean`, `max`, `min`.
        dims: The dimensions of the shape that are reduced.
        target: The node whose tensor it changes in place, if it does.
    """

    node: fx.Node
    shape: Shape
    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    dtype: torch.dtype
    reduction: str | None = None
    dims: tuple[int, ...] = ()
    target: fx.Node | None = None

    @property
    def owner(self) -> fx.Node:
        """The node that owns the storage of its results."""
        return self.target or self.node
