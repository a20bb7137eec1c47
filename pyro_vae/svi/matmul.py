"""Which kernel a graph's large float32 matrix products run on, on the CPU.

torch multiplies float32 matrices with MKL, which on AMD's processors takes
twice as long as oneDNN, which torch has as well. And
`torch.set_float32_matmul_precision("medium")` converts both operands to
bfloat16 at every product, where a graph can convert each tensor once.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, fx

PRECISIONS = ("highest", "high", "medium")
LARGE = 1 << 20  # multiplications from which another kernel pays its call

_aten = torch.ops.aten


# Registered by hand: `torch.library.custom_op` adds 7 microseconds a call.
_library = torch.library.Library("pyro_vae", "FRAGMENT")
_library.define("onednn_mm(Tensor left, Tensor right) -> Tensor")


@torch.library.impl(_library, "onednn_mm", "CPU")
def onednn_mm(left: Tensor, right: Tensor) -> Tensor:
    """The float32 product of `(n, k)` and `(k, m)`, computed by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(
        left, right.t(), None, "none", [], ""
    )


@torch.library.register_fake("pyro_vae::onednn_mm", lib=_library)
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def choose_matmuls(graph: fx.GraphModule, precision: str) -> None:
    """Rewrites a recorded graph's large float32 products, in place.

    Args:
        graph: A graph of ATen operations, as `make_fx` records it.
        precision: `highest` and `high` multiply in float32 (`high` is TF32 on
            CUDA, which is a setting of torch's and not of the graph's).
            `medium` rounds operands and results to bfloat16 and sums in
            float32, where the processor can; all else stays in float32.
    """
    product = _choose_kernel(graph.graph, precision)
    if product is None:
        return
    for node in list(graph.graph.nodes):
        bias, left, right = None, None, None
        if node.target is _aten.mm.default:
            left, right = node.args
        elif node.target is _aten.addmm.default and not node.kwargs:
            bias, left, right = node.args
        if left is None or not _is_large(left, right):
            continue
        with graph.graph.inserting_before(node):
            result = product(left, right)
            if bias is not None:
                result = _call(graph.graph, _aten.add.Tensor, result, bias)
        result.meta = dict(node.meta)  # the next product asks for its shape
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)
    graph.recompile()


def _choose_kernel(
    graph: fx.Graph, precision: str
) -> Callable[[fx.Node, fx.Node], fx.Node] | None:
    """Returns what inserts a product, or None if torch's is the best."""
    processor = _processor()
    if precision == "medium" and (
        processor.get("avx512_bf16") or processor.get("amx_bf16")
    ):
        rounded: dict[fx.Node, fx.Node] = {}
        once = not _writes_in_place(graph)

        def low(left: fx.Node, right: fx.Node) -> fx.Node:
            operands = [
                _round(graph, node, rounded)
                if once
                else _cast(graph, node, torch.bfloat16)
                for node in (left, right)
            ]
            result = _call(graph, _aten.mm.default, *operands)
            return _cast(graph, result, torch.float32)

        return low
    if str(processor.get("cpu_name")).startswith("AMD"):

        def onednn(left: fx.Node, right: fx.Node) -> fx.Node:
            if left.target is _aten.t.default:
                # oneDNN would copy it, too, but not fused with its producer.
                left = graph.call_function(
                    _aten.clone.default,
                    (left,),
                    {"memory_format": torch.contiguous_format},
                )
            return _call(
                graph, torch.ops.pyro_vae.onednn_mm.default, left, right
            )

        return onednn
    return None


def _writes_in_place(graph: fx.Graph) -> bool:
    """Whether a tensor may change after it was rounded, new ones apart."""
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if (
            schema is not None
            and schema.is_mutable
            and "empty" not in str(getattr(node.args[0], "target", ""))
        ):
            return True
    return False


def _round(
    graph: fx.Graph, node: fx.Node, rounded: dict[fx.Node, fx.Node]
) -> fx.Node:
    """Rounds a tensor to bfloat16, once for all its uses and transposes."""
    if node not in rounded:
        with graph.inserting_after(node):
            if node.target is _aten.t.default:
                with graph.inserting_before(node):
                    base = _round(graph, node.args[0], rounded)
                rounded[node] = _call(graph, _aten.t.default, base)
            else:
                rounded[node] = _cast(graph, node, torch.bfloat16)
    return rounded[node]


def _is_large(left: fx.Node, right: fx.Node) -> bool:
    tensors = [node.meta.get("val") for node in (left, right)]
    if any(
        not isinstance(tensor, Tensor)
        or tensor.dtype != torch.float32
        or tensor.device.type != "cpu"
        for tensor in tensors
    ):
        return False
    return math.prod(tensors[0].shape) * tensors[1].shape[1] >= LARGE


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    cast = torch.ops.prims.convert_element_type.default
    return _call(graph, cast, node, dtype)


def _call(graph: fx.Graph, target: Callable, *args) -> fx.Node:
    return graph.call_function(target, args)


@functools.cache
def _processor() -> dict:
    """What torch knows of the processor; nothing where it does not tell."""
    describe = getattr(torch.cpu, "get_capabilities", dict)
    return describe() if torch.backends.mkldnn.is_available() else {}
