"""The loops of a graph: of new tensors, and of changes of these in place."""

from dataclasses import replace

import torch
from torch import fx

from pyro_vae.svi.loops.layout import Access, Layout, list_written
from pyro_vae.svi.loops.loop import Loop
from pyro_vae.svi.loops.loops import Loops
from pyro_vae.svi.loops.operators import (
    C_TYPES,
    CHANGES,
    ELEMENTWISE,
    EMPTY,
    LOGICAL,
    SELECTIONS,
)


def _make_change(loops: Loops, node: fx.Node) -> Loop | None:
    """Returns the loop of a change in place, or None if torch is to do it.

    Inputs may share a storage that begins elsewhere: torch changes those.
    """
    layout, written = loops.layout, [*list_written(node)]
    if len(written) != 1 or written[0] is not node.args[0]:
        return None
    (target,) = written
    value, root = layout.values[node], layout.roots[target]
    if root.op == "placeholder" or not layout.is_plain(target):
        return None
    access = layout.access(target, tuple(value.shape))
    has_room = all(
        stride or size == 1
        for size, stride in zip(value.shape, access.strides, strict=True)
    )
    if value.dtype not in C_TYPES or value.numel() == 0 or not has_room:
        return None
    loop = _compute(loops, node)
    if loop is None or any(
        isinstance(operand.source, Access)
        and operand.source.root is root
        and operand.source != access
        for operand in loop.operands
    ):
        return None
    (result,) = loop.results
    result = replace(result, offset=access.offset)
    return replace(loop, results=(result,), target=root)


def _compute(loops: Loops, node: fx.Node) -> Loop | None:
    """Returns the loop of the new values."""
    values, name = loops.layout.values, str(node.target).replace("_.", ".")
    dtype = values[node].dtype
    if name in CHANGES:
        return loops.copy(node, node.args[1] if len(node.args) > 1 else 0)
    kinds = (ELEMENTWISE, LOGICAL, SELECTIONS, {"aten.clamp.default"})
    if not any(name in kind for kind in kinds):
        return None
    # Others would be converted to what torch computes in, and back.
    if {values[each].dtype for each in node.all_input_nodes} - {
        dtype,
        torch.bool,
    }:
        return None
    return loops.compute(node, name)


def _make_memory(layout: Layout, node: fx.Node) -> Loop | None:
    """Returns a loop of nothing for a tensor that is made empty."""
    value = layout.values[node]
    if str(node.target) not in EMPTY or value.numel() == 0:
        return None
    return Loop(node, tuple(value.shape), (), (), value.dtype)
