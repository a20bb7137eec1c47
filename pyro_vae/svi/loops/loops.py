"""The loops of a graph's nodes: which can be one, and what it computes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pyro_vae.svi.loops.layout import Layout, Shape, list_written
from pyro_vae.svi.loops.loop import Loop, Operand, Result
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
from pyro_vae.svi.loops.products import multiply


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
        root, name = self.layout.roots[node], str(node.target)
        if any(list_written(node)):
            return None
        if root is not node:
            if root in self.constants and self.layout.is_plain(node):
                self.constants[node] = self.constants[root]
            return None
        if name in REDUCTIONS:
            return self._reduce(node, name)
        if name in ("aten.mm.default", "aten.addmm.default"):
            return self._multiply(node)
        if value.dtype not in C_TYPES and name not in CASTS:
            return None
        if name in CONSTANTS:
            return self._fill(node, name)
        return self.compute(node, name)

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
        known = value.dtype in C_TYPES or value.dtype in ROUNDED
        if not known or not self.layout.is_plain(given):
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

    def compute(self, node: fx.Node, name: str) -> Loop | None:
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
        if name == "aten.binary_cross_entropy_with_logits.default":
            if given[2:] != [None, None, 0]:
                return None  # weighted, or reduced
            del given[2:]
        if name == "aten.pow.Tensor_Scalar":
            exponent = given.pop()
            text = POWERS.get(exponent)
            if text is None:
                given.append(exponent)
                text = ELEMENTWISE["aten.pow.Tensor_Tensor"]
        elif name in ELEMENTWISE:
            text = ELEMENTWISE[name]
            given.extend(DEFAULTS.get(name, ())[len(given) - 1 :])
            if (
                f"{{{len(given)}}}" in text
                or f"{{{len(given) - 1}}}" not in text
            ):
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
        ignored = {"memory_format", "dtype"}
        if node.kwargs.keys() - ignored or not isinstance(
            node.args[0], fx.Node
        ):
            return None
        return self.copy(node, node.args[0])

    def copy(self, node: fx.Node, given: Any) -> Loop | None:
        """Returns the loop of a tensor's or a number's copy."""
        value, source = self.layout.values[node], self._value(given)
        text, computed = "{0}", value.dtype
        if value.dtype in ROUNDED:
            computed = torch.float32
            if source.dtype not in (torch.float32, value.dtype):
                return None
        elif value.dtype not in C_TYPES or _loses_range(source, value.dtype):
            return None
        elif value.dtype == torch.bool and isinstance(source, Tensor):
            text, computed = "{0} != 0", source.dtype
        operand = self._operand(given, tuple(value.shape), computed)
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
        if node not in self.layout.written:
            kept = torch.tensor(number, device="cpu").to(value.dtype).item()
            self.constants[node] = number = kept
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
        given: list[Any] = [*node.args[1:], None, False]
        chosen, keep = given[:2]
        dims = range(source.dim())
        if isinstance(chosen, int):
            chosen = [chosen]
        reduced = {dim % max(source.dim(), 1) for dim in chosen or dims}
        reduced &= set(dims)
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
        """Returns the loop of a product of matrices of which one is narrow."""
        value = self.layout.values[node]
        plain = str(node.target) == "aten.mm.default" and not node.kwargs
        if not plain or value.dtype not in (torch.float32, torch.float64):
            return None
        left, right = node.all_input_nodes[0], node.all_input_nodes[-1]
        if not all(map(self.layout.is_plain, (left, right))):
            return None
        shapes = [tuple(self.layout.values[n].shape) for n in (left, right)]
        return multiply(
            node,
            value,
            self.layout.access(left, shapes[0]),
            self.layout.access(right, shapes[1]),
            shapes[0][1],
        )

    def _is_bool(self, given: Any) -> bool:
        value = self._value(given)
        return isinstance(value, Tensor) and value.dtype == torch.bool

    def _value(self, given: Any) -> Any:
        return (
            self.layout.values[given] if isinstance(given, fx.Node) else given
        )


def _loses_range(source: Any, dtype: torch.dtype) -> bool:
    """Returns whether a copy makes integers of fractions.

    What becomes of those that are too large, C leaves open.
    """
    is_fraction = isinstance(source, Tensor) and source.is_floating_point()
    return is_fraction and not dtype.is_floating_point and dtype != torch.bool
