"""The loops of a graph: of new tensors, and of changes of these in place."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from pyro_vae.svi.loops.layout import (
    Access,
    Layout,
    UnsuitableError,
    list_written,
)
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
from pyro_vae.svi.loops.writer import FOR_LOOPS


def make_loops(nodes: Sequence[fx.Node], layout: Layout) -> dict[fx.Node, Loop]:
    """Returns the loops of all nodes that have one.

    Raises:
        UnsuitableError: If a node that was written for loops has none.
    """
    maker, loops = Loops(layout), dict[fx.Node, Loop]()
    kept = set[fx.Node]()  # in torch's hands
    for node in nodes:
        loop = maker.make(node) or _make_change(maker, node)
        if loop is not None:
            loops[node] = loop
        elif node.meta.get(FOR_LOOPS):
            raise UnsuitableError(f"{node.target} is no loop")
        else:
            kept.update(layout.roots[each] for each in list_written(node))
    for node in nodes:
        if node in layout.written - kept and node not in loops:
            memory = _make_memory(layout, node)
            if memory is not None:
                loops[node] = memory
    return loops


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
