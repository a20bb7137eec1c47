"""What a node of a graph computes, as a loop over the elements of a shape.

A loop reads tensors, computes one or more expressions for each element, and
keeps each of them, or reduces it over some dimensions of the shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pyro_vae.svi.loops.layout import Access, Layout, Shape, make_strides
from pyro_vae.svi.loops.operators import (
    C_TYPES,
    CASTS,
    COMPARISONS,
    CONSTANTS,
    DEFAULTS,
    ELEMENTWISE,
    INTEGRAL,
    LOGICAL,
    POWERS,
    REDUCTIONS,
    ROUNDED,
    SELECTIONS,
    write_number,
)

NARROW = 8  # rows or columns of a product that loops are faster for


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
        results: What is computed; several for a narrow matrix product.
        dtype: Of the results.
        reduction: None for elementwise results, or `sum`, `mean`, `max`, `min`.
        dims: The dimensions of the shape that are reduced.
    """

    node: fx.Node
    shape: Shape
    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    dtype: torch.dtype
    reduction: str | None = None
    dims: tuple[int, ...] = ()


class Loops:
    """Makes the loops of a graph's nodes.

    Args:
        layout: The graph's layout.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.constants: dict[fx.Node, float] = {}

    def make(self, node: fx.Node) -> Loop | None:
        """Returns a node's loop, or None if torch is to run the node.

        The node's arguments must have been asked for before.
        """
        value = self.layout.values[node]
        if not isinstance(value, Tensor) or node.op != "call_function":
            return None
        if value.numel() == 0:
            return None
        root = self.layout.roots[node]
        if root is not node:
            if root in self.constants:
                self.constants[node] = self.constants[root]
            return None
        if root in self.layout.written:
            return None
        name = str(node.target)
        if name in REDUCTIONS:
            return self._reduce(node, name)
        if name in ("aten.mm.default", "aten.addmm.default"):
            return self._multiply(node)
        if value.dtype not in C_TYPES and name not in CASTS:
            return None
        if name in CONSTANTS:
            return self._fill(node, name)
        return self._compute(node, name)

    def _operand(
        self, given: Any, shape: Shape, dtype: torch.dtype
    ) -> Operand | None:
        """Returns an argument as an operand; None if it cannot be one."""
        if isinstance(given, bool | int | float):
            return Operand(write_number(given, dtype), dtype)
        if not isinstance(given, fx.Node):
            return None
        value = self.layout.values[given]
        if not isinstance(value, Tensor):
            return None
        if given in self.constants:
            number = self.constants[given]
            return Operand(write_number(number, dtype), dtype)
        if value.dtype not in C_TYPES and value.dtype not in ROUNDED:
            return None
        return Operand(self.layout.access(given, shape), dtype)

    def _elementwise(
        self, node: fx.Node, operands: Sequence[Operand | None], text: str
    ) -> Loop | None:
        value = self.layout.values[node]
        if any(operand is None for operand in operands):
            return None
        shape, strides = tuple(value.shape), tuple(value.stride())
        known = tuple(operand for operand in operands if operand is not None)
        result = Result(text, 0, strides)
        return Loop(node, shape, known, (result,), value.dtype)

    def _compute(self, node: fx.Node, name: str) -> Loop | None:
        """Returns the loop of an elementwise operation."""
        value, given = self.layout.values[node], list(node.args)
        shape, dtype = tuple(value.shape), value.dtype
        if name in CASTS:
            return self._cast(node)
        if node.kwargs or not given:
            return None
        if name in SELECTIONS:
            place, text = SELECTIONS[name]
            dtypes = [dtype] * len(given)
            dtypes[place] = torch.bool
            if len(given) != 3 or not self._is_bool(given[place]):
                return None
        elif name in LOGICAL:
            text, dtypes = LOGICAL[name], [torch.bool] * len(given)
            if not all(map(self._is_bool, given)):
                return None
        else:
            found = self._arithmetic(node, name, given)
            if found is None:
                return None
            text, common = found
            dtypes = [common] * len(given)
        operands = [
            self._operand(argument, shape, kind)
            for argument, kind in zip(given, dtypes, strict=True)
        ]
        return self._elementwise(node, operands, text)

    def _arithmetic(
        self, node: fx.Node, name: str, given: list[Any]
    ) -> tuple[str, torch.dtype] | None:
        """Returns an expression, and the dtype to compute it in."""
        dtype = self.layout.values[node].dtype
        if name in COMPARISONS:
            operands = [self._value(argument) for argument in given]
            common = operands[0].dtype
            if len(operands) == 2:
                common = torch.result_type(*operands)
            return (COMPARISONS[name], common) if common in C_TYPES else None
        if name == "aten.clamp.default":
            return self._clamp(given, dtype)
        if name == "aten.pow.Tensor_Scalar":
            exponent = given.pop()
            text = POWERS.get(exponent)
            if text is None:
                given.append(exponent)
                text = ELEMENTWISE["aten.pow.Tensor_Tensor"]
        elif name in ELEMENTWISE:
            text = ELEMENTWISE[name]
            given.extend(DEFAULTS.get(name, ())[len(given) - 1 :])
            if f"{{{len(given)}}}" in text or f"{{{len(given) - 1}}}" not in text:
                return None  # an argument too few or too many
        else:
            return None
        if not dtype.is_floating_point and name not in INTEGRAL:
            return None
        return (text, dtype) if dtype != torch.bool else None

    def _clamp(
        self, given: list[Any], dtype: torch.dtype
    ) -> tuple[str, torch.dtype] | None:
        low, high = [*given[1:], None, None][:2]
        given[1:] = [bound for bound in (low, high) if bound is not None]
        if not dtype.is_floating_point or len(given) == 1:
            return None
        texts = ["{0} < {1} ? {1} : {0}", "{0} > {1} ? {1} : {0}"]
        if len(given) == 3:
            below = texts[0]
            # torch's upper bound wins over the lower one.
            text = f"({below}) > {{2}} ? {{2}} : ({below})"
        else:
            text = texts[low is None]
        return text, dtype

    def _cast(self, node: fx.Node) -> Loop | None:
        """Returns the loop of a copy, maybe to another dtype."""
        value = self.layout.values[node]
        ignored = {"memory_format", "dtype"}
        if node.kwargs.keys() - ignored or not isinstance(node.args[0], fx.Node):
            return None
        source = self._value(node.args[0])
        if value.dtype in ROUNDED:
            computed = torch.float32
            if source.dtype not in (torch.float32, value.dtype):
                return None
        elif value.dtype in C_TYPES:
            computed = value.dtype
        else:
            return None
        text = "{0}"
        if value.dtype == torch.bool:
            text, computed = "{0} != 0", source.dtype
        operand = self._operand(node.args[0], tuple(value.shape), computed)
        return self._elementwise(node, [operand], text)

    def _fill(self, node: fx.Node, name: str) -> Loop | None:
        """Returns the loop of a tensor of one value."""
        value = self.layout.values[node]
        number: Any = 1 if "ones" in name else 0
        if "full" in name:
            number = node.args[2 if "new_full" in name else 1]
        elif "scalar_tensor" in name:
            number = node.args[0]
        if not isinstance(number, bool | int | float):
            return None
        self.constants[node] = number
        operand = self._operand(number, tuple(value.shape), value.dtype)
        return self._elementwise(node, [operand], "{0}")

    def _reduce(self, node: fx.Node, name: str) -> Loop | None:
        """Returns the loop of a reduction."""
        value, argument = self.layout.values[node], node.args[0]
        if node.kwargs or not isinstance(argument, fx.Node):
            return None
        source = self._value(argument)
        if source.numel() == 0:
            return None
        chosen, keep = [*node.args[1:], None, False][:2]
        dims = range(source.dim())
        if isinstance(chosen, int):
            chosen = [chosen]
        reduced = {dim % source.dim() for dim in chosen or dims}
        kind = REDUCTIONS[name]
        integral = kind == "sum" and value.dtype == torch.int64
        if len(node.args) > 3 or not (
            value.dtype in (torch.float32, torch.float64) or integral
        ):
            return None
        operand = self._operand(argument, tuple(source.shape), value.dtype)
        if operand is None:
            return None
        strides = list(value.stride())
        if not keep:
            kept = iter(strides)
            strides = [0 if dim in reduced else next(kept) for dim in dims]
        strides = [0 if dim in reduced else strides[dim] for dim in dims]
        return Loop(
            node,
            tuple(source.shape),
            (operand,),
            (Result("{0}", 0, tuple(strides)),),
            value.dtype,
            kind,
            tuple(sorted(reduced)),
        )

    def _multiply(self, node: fx.Node) -> Loop | None:
        """Returns the loop of a product of matrices of which one is narrow.

        It goes through the larger matrix in the order in which it lies, which
        is the order of the loop that has made it.
        """
        if node.kwargs or str(node.target) != "aten.mm.default":
            return None
        left, right = node.args
        a, b = self._value(left), self._value(right)
        (n, k), m = a.shape, b.shape[1]
        dtype = self.layout.values[node].dtype
        if dtype not in (torch.float32, torch.float64) or min(n, k, m) > NARROW:
            return None
        if min(n, k, m) == 0:
            return None
        one = self.layout.access(left, tuple(a.shape))
        two = self.layout.access(right, tuple(b.shape))
        if k <= NARROW:
            return self._add_products(node, one, two)
        if m <= n:
            return self._sum_products(node, one, two, True)
        return self._sum_products(node, one, two, False)

    def _add_products(
        self, node: fx.Node, left: Access, right: Access
    ) -> Loop | None:
        """A sum of few products for each element."""
        value = self.layout.values[node]
        k = self._value(node.args[0]).shape[1]
        operands, terms = [], []
        for index in range(k):
            for access, dim in ((left, 1), (right, 0)):
                strides = list(access.strides)
                offset = access.offset + index * strides[dim]
                strides[dim] = 0
                operands.append(
                    Operand(
                        access._replace(offset=offset, strides=tuple(strides)),
                        value.dtype,
                    )
                )
            terms.append(f"{{{2 * index}}} * {{{2 * index + 1}}}")
        return self._elementwise(node, operands, " + ".join(terms))

    def _sum_products(
        self, node: fx.Node, left: Access, right: Access, narrow_right: bool
    ) -> Loop:
        """Few columns (or rows), each a reduction of the larger matrix."""
        value = self.layout.values[node]
        (n, k), m = self._value(node.args[0]).shape, value.shape[1]
        rows, columns = value.stride()
        if narrow_right:
            large, small, shape = left, right, (n, k)
            steps, step, dim, count = (rows, 0), columns, 1, m
            along, across = small.strides
        else:
            large, small, shape = right, left, (k, m)
            steps, step, dim, count = (0, columns), rows, 0, n
            across, along = small.strides
        operands = [Operand(large, value.dtype)]
        results = []
        for index in range(count):
            strides = [0, 0]
            strides[dim] = along
            access = small._replace(
                offset=small.offset + index * across, strides=tuple(strides)
            )
            operands.append(Operand(access, value.dtype))
            text = f"{{0}} * {{{index + 1}}}"
            results.append(Result(text, index * step, steps))
        loop = Loop(
            node,
            shape,
            tuple(operands),
            tuple(results),
            value.dtype,
            "sum",
            (dim,),
        )
        in_order = large.strides[0] >= large.strides[1]
        return loop if in_order else _transpose(loop)

    def _is_bool(self, given: Any) -> bool:
        value = self._value(given)
        return isinstance(value, Tensor) and value.dtype == torch.bool

    def _value(self, given: Any) -> Any:
        return self.layout.values[given] if isinstance(given, fx.Node) else given


def _transpose(loop: Loop) -> Loop:
    """Returns the same loop of two dimensions, in the other order."""

    def turn(operand: Operand) -> Operand:
        source = operand.source
        if isinstance(source, Access):
            source = source._replace(strides=source.strides[::-1])
        return Operand(source, operand.dtype)

    return Loop(
        loop.node,
        loop.shape[::-1],
        tuple(map(turn, loop.operands)),
        tuple(
            Result(result.expression, result.offset, result.strides[::-1])
            for result in loop.results
        ),
        loop.dtype,
        loop.reduction,
        tuple(1 - dim for dim in loop.dims),
    )
