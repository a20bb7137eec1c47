"""The large float32 matrix products of a graph, on the CPU.

Each runs on the kernel that is fastest here, which svi/kernels.py measures. And
`torch.set_float32_matmul_precision("medium")` converts both operands to
bfloat16 at every product, where a graph can convert each tensor once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from pyro_vae.svi.compat import aten, writes_in_place
from pyro_vae.svi.inductor import multiply_by_onednn
from pyro_vae.svi.kernels import choose_kernel
from pyro_vae.svi.record import read_example, set_example

PRECISIONS = ("highest", "high", "medium")
LARGE = 1 << 20  # multiplications from which another kernel pays its call

Product = Callable[[fx.Node, fx.Node], fx.Node]


# Registered by hand: `torch.library.custom_op` adds 7 microseconds a call.
_library = torch.library.Library("pyro_vae", "FRAGMENT")
_library.define("onednn_mm(Tensor left, Tensor right) -> Tensor")


@torch.library.impl(_library, "onednn_mm", "CPU")
def onednn_mm(left: Tensor, right: Tensor) -> Tensor:
    """Returns the float32 product of `(n, k)` and `(k, m)`, by oneDNN."""
    return multiply_by_onednn(left, right)


@torch.library.register_fake("pyro_vae::onednn_mm", lib=_library)
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def check_precision(precision: str) -> None:
    """Raises ValueError for a precision that is not one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision is {precision!r}; expected one of "
            f"{', '.join(PRECISIONS)}"
        )


def choose_matmuls(
    graph: fx.GraphModule,
    precision: str,
    choose: Callable[[Tensor, Tensor, str], str] = choose_kernel,
) -> None:
    """Rewrites a recorded graph's large float32 products, in place.

    Args:
        graph: A graph of ATen operations, as `record` makes it.
        precision: `highest` and `high` multiply in float32 (`high` is TF32 on
            CUDA, which is a setting of torch's and not of the graph's).
            `medium` rounds operands and results to bfloat16 and sums in
            float32, where the processor can and it is faster; all else stays
            in float32.
        choose: Takes two operands and the precision, and returns the kernel's
            name in `KERNELS`.
    """
    products: dict[str, Product] = {
        "onednn": _onednn_product(graph.graph),
        "bfloat16": _low_product(graph.graph),
    }
    for node in list(graph.graph.nodes):
        bias, left, right = _read_operands(node)
        operands = _read_large(left, right)
        if operands is None:
            continue
        kernel = choose(*operands, precision)
        if kernel not in products:
            continue
        with graph.graph.inserting_before(node):
            result = products[kernel](left, right)
            if bias is not None:
                result = _call(graph.graph, aten.add.Tensor, result, bias)
        set_example(result, node)  # the next product asks for its shape
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)
    graph.recompile()


def _read_operands(node: fx.Node) -> tuple[Any, Any, Any]:
    """Returns the bias and the operands of a product; Nones of all else."""
    if node.target is aten.mm.default:
        left, right = node.args
        return None, left, right
    if node.target is aten.addmm.default and not node.kwargs:
        bias, left, right = node.args
        return bias, left, right
    return None, None, None


def _low_product(graph: fx.Graph) -> Product:
    """Returns what inserts a product of operands rounded to bfloat16."""
    rounded: dict[fx.Node, fx.Node] = {}
    once = not any(map(_may_overwrite, graph.nodes))

    def insert(left: fx.Node, right: fx.Node) -> fx.Node:
        operands = [
            _round(graph, node, rounded)
            if once
            else _cast(graph, node, torch.bfloat16)
            for node in (left, right)
        ]
        result = _call(graph, aten.mm.default, *operands)
        return _cast(graph, result, torch.float32)

    return insert


def _onednn_product(graph: fx.Graph) -> Product:
    """Returns what inserts a product that oneDNN computes."""

    def insert(left: fx.Node, right: fx.Node) -> fx.Node:
        if left.target is aten.t.default:
            # oneDNN would copy it, too, but not fused with its producer.
            left = graph.call_function(
                aten.clone.default,
                (left,),
                {"memory_format": torch.contiguous_format},
            )
        return _call(graph, torch.ops.pyro_vae.onednn_mm.default, left, right)

    return insert


def _may_overwrite(node: fx.Node) -> bool:
    """Returns whether a node may change a tensor that was rounded before.

    A tensor that was just made, and is filled now, was not.
    """
    return writes_in_place(node) and "empty" not in str(
        getattr(node.args[0], "target", "")
    )


def _round(
    graph: fx.Graph, node: fx.Node, rounded: dict[fx.Node, fx.Node]
) -> fx.Node:
    """Rounds a tensor to bfloat16, once for all its uses and transposes."""
    if node not in rounded:
        with graph.inserting_after(node):
            if node.target is aten.t.default:
                transposed: Any = node.args[0]
                with graph.inserting_before(node):
                    base = _round(graph, transposed, rounded)
                rounded[node] = _call(graph, aten.t.default, base)
            else:
                rounded[node] = _cast(graph, node, torch.bfloat16)
    return rounded[node]


def _read_large(
    left: fx.Node | None, right: fx.Node | None
) -> tuple[Tensor, Tensor] | None:
    """Returns the operands of a large float32 product, without data."""
    if left is None or right is None:
        return None
    examples = [read_example(node) for node in (left, right)]
    made = [
        example.make()
        for example in examples
        if example is not None
        and example.dtype == torch.float32
        and example.device.type == "cpu"
    ]
    if len(made) < 2 or made[0].numel() * made[1].shape[1] < LARGE:
        return None
    return made[0], made[1]


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    return graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})


def _call(graph: fx.Graph, target: Callable, *args: Any) -> fx.Node:
    return graph.call_function(target, args)
