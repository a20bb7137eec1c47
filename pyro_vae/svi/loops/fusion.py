"""A recorded graph, of which what can be computed in C is."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.loops.compiler import load_library
from pyro_vae.svi.loops.gemm import set_pointers
from pyro_vae.svi.loops.groups import Group
from pyro_vae.svi.loops.layout import Layout, lay_out, list_written
from pyro_vae.svi.loops.pointers import Functions
from pyro_vae.svi.loops.rewrite import simplify
from pyro_vae.svi.loops.schedule import Schedule, Step, make_schedule
from pyro_vae.svi.loops.segment import Segment, list_used
from pyro_vae.svi.loops.source import write_header

# Python calls these faster than the operators, which take anything.
_DIRECT: dict[Any, Callable] = {
    aten.empty.memory_format: torch.empty,
    aten.normal_.default: Tensor.normal_,
    aten.uniform_.default: Tensor.uniform_,
}


class _Builder:
    """Builds the graph of segments, and of what torch runs between them.

    Args:
        layout: The layout of the graph as it was recorded.
        changed: The nodes that segments compute, in place of others.
    """

    def __init__(self, layout: Layout, changed: set[fx.Node]):
        self.layout, self.changed, self.graph = layout, changed, fx.Graph()
        self._known: dict[fx.Node, fx.Node] = {}

    def copy(self, node: fx.Node) -> fx.Node:
        """Returns a node's copy, after copies of all that it needs."""
        if node not in self._known:
            self._known[node] = self._copy(node)
        return self._known[node]

    def _copy(self, node: fx.Node) -> fx.Node:
        """Copies a node; a view is taken of the storage's owner at once."""
        root = self.layout.roots.get(node)
        if node in self.changed:
            return self.copy(cast(fx.Node, node.args[0]))
        if root is None or root is node or any(list_written(node)):
            copied = self.graph.node_copy(node, self.copy)
            copied.target = _DIRECT.get(copied.target, copied.target)
            return copied
        value, owner = self.layout.values[node], self.layout.values[root]
        # Where an input begins in its storage is not known.
        is_part = value.storage_offset() != owner.storage_offset()
        if is_part or not self.layout.is_plain(node):
            return self.graph.node_copy(node, self.copy)
        known, shape = self.copy(root), tuple(value.shape)
        if (shape, value.stride()) == (tuple(owner.shape), owner.stride()):
            return known
        return self.graph.call_function(
            torch.as_strided, (known, shape, value.stride())
        )

    def call(self, segment: Segment) -> None:
        """Calls a segment."""
        inputs = tuple(map(self.copy, segment.inputs))
        made = self.graph.call_function(segment, inputs)
        for place, node in enumerate(segment.outputs):
            self._known[node] = self.graph.call_function(
                operator.getitem, (made, place)
            )


def fuse(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """Returns a graph that computes the same, with loops in C.

    Args:
        graph: A record, of operators of ATen.
        inputs: What it takes, on the CPU; later ones have the same layouts.

    Raises:
        UnsuitableError: If the graph is of another kind.
        CompilerError: If there is no compiler here, or it fails.
        OSError: If there is no folder to keep what it has compiled.
    """
    simplify(graph.graph)
    layout = lay_out(graph, inputs)
    schedule = make_schedule(graph, layout)
    changed = {
        loop.node
        for step in schedule.steps
        if isinstance(step, Group)
        for loop in step.loops.values()
        if loop.target is not None
    }
    builder, segments = _Builder(layout, changed), list[Segment]()
    functions = Functions()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            builder.copy(node)
    for part in _cut(schedule):
        if isinstance(part, fx.Node):
            builder.copy(part)
            continue
        steps, kept = part
        whole = set(schedule.returned), schedule.stored, layout, functions
        segment = Segment(len(segments), steps, kept, *whole)
        segments.append(segment)
        builder.call(segment)
    builder.copy(graph.graph.output_node())
    if segments:
        sources = [segment.source for segment in segments]
        lines = [write_header(), *functions.write(), *sources]
        library = load_library("\n".join(lines))
        set_pointers(library)
        for segment in segments:
            segment.load(library)
    return fx.GraphModule({}, builder.graph)


def _cut(
    schedule: Schedule,
) -> list[fx.Node | tuple[list[Step], set[fx.Node]]]:
    """Returns operators, and the steps in C between them.

    With each run of steps come the nodes that are used after it.
    """
    parts: list[fx.Node | tuple[list[Step], set[fx.Node]]] = []
    used = set(schedule.returned)
    run: list[Step] = []
    for step in reversed([None, *schedule.steps]):
        if isinstance(step, Step):
            run.insert(0, step)
            continue
        if run:
            parts.append((run, set(used)))
            used |= set(list_used(run))
            run = []
        if step is not None:
            parts.append(step)
            used |= schedule.reads[step]
    return parts[::-1]
