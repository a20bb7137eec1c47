"""The order in which a graph's loops and torch's own operators run.

torch's operators keep their order. Before each of them come the loops that it
depends on; those over one shape run as one, a group, as far as what they read
allows, and smaller shapes come first, so that larger ones wait for all that
they can be computed along with.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import fx

from pyro_vae.svi.draws import is_random
from pyro_vae.svi.loops.layout import (
    Access,
    Layout,
    Shape,
    list_written,
    skip_short,
)
from pyro_vae.svi.loops.loop import Loop
from pyro_vae.svi.loops.loops import Loops

SMALL = 1 << 12  # elements of a group that need not wait


@dataclass
class Group:
    """Loops over one shape that run together."""

    shape: Shape
    loops: dict[fx.Node, Loop] = field(default_factory=dict)

    def computes(self, access: Access) -> bool:
        """Returns whether an access finds its value in the same iteration."""
        loop = self.loops.get(access.root)
        return (
            loop is not None
            and loop.reduction is None
            and access.offset == 0
            and access.dtype == loop.dtype
            and skip_short(access.strides, self.shape)
            == skip_short(loop.results[0].strides, self.shape)
        )


@dataclass
class Schedule:
    """The steps of a graph, in order.

    Attributes:
        steps: Groups, and nodes that torch runs.
        stored: The nodes whose loops must store their results.
        reads: For each node that torch runs, the nodes that own the storages
            of its arguments.
        returned: Those that own the storages of the results.
    """

    steps: list[Group | fx.Node]
    stored: set[fx.Node]
    reads: dict[fx.Node, set[fx.Node]]
    returned: set[fx.Node]


def make_schedule(graph: fx.GraphModule, layout: Layout) -> Schedule:
    """Orders a graph's nodes."""
    maker = Loops(layout)
    loops: dict[fx.Node, Loop] = {}
    for node in graph.graph.nodes:
        if node.op != "output" and (loop := maker.make(node)) is not None:
            loops[node] = loop
    scheduler = _Scheduler(layout, loops)
    needed = scheduler.find_needed(graph)
    nodes = [node for node in graph.graph.nodes if node in needed]
    scheduler.find_dependencies(nodes)
    for node in nodes:
        if scheduler.is_operator(node):
            scheduler.add_operator(node)
    reads = scheduler.reads
    returned = reads.pop(nodes[-1])
    return Schedule(scheduler.steps, scheduler.stored, reads, returned)


def list_reads(loop: Loop) -> Iterator[Access]:
    """Yields what a loop reads from tensors."""
    for operand in loop.operands:
        if isinstance(operand.source, Access):
            yield operand.source


class _Scheduler:
    """Puts one step after the other.

    Args:
        layout: The graph's layout.
        loops: The loops of its nodes; torch runs the others.
    """

    def __init__(self, layout: Layout, loops: dict[fx.Node, Loop]):
        self.layout, self.loops = layout, loops
        self.steps: list[Group | fx.Node] = []
        self.stored: set[fx.Node] = set()
        self.reads: dict[fx.Node, set[fx.Node]] = {}
        self._waiting: dict[fx.Node, Loop] = {}
        self._needs: dict[fx.Node, set[fx.Node]] = {}
        self._done: set[fx.Node] = set()

    def is_operator(self, node: fx.Node) -> bool:
        """Returns whether torch runs a node as a step of its own."""
        if node in self.loops or node.op == "placeholder":
            return False
        return (
            node.op == "output"
            or any(list_written(node))
            or not self.layout.is_view(node)
        )

    def find_needed(self, graph: fx.GraphModule) -> set[fx.Node]:
        """Returns the nodes that results, or other effects, depend on."""
        needed: set[fx.Node] = set()
        open_nodes = [
            node
            for node in graph.graph.nodes
            if node.op == "output"
            or any(list_written(node))
            or is_random(node.target)
        ]
        while open_nodes:
            node = open_nodes.pop()
            if node in needed:
                continue
            needed.add(node)
            if node in self.loops:
                reads = list_reads(self.loops[node])
                open_nodes.extend(access.root for access in reads)
            else:
                open_nodes.extend(node.all_input_nodes)
                open_nodes.extend(self._roots([node]))
        return needed

    def find_dependencies(self, nodes: Iterable[fx.Node]) -> None:
        """Notes which steps each loop and each operator must come after.

        A change in place comes after all that has read the tensor before, and
        before all that reads it later. Graph inputs may share a storage.
        """
        changes: dict[fx.Node, set[fx.Node]] = {}
        readers: dict[fx.Node, set[fx.Node]] = {}
        before: set[fx.Node] = set()  # all loops so far
        barriers: set[fx.Node] = set()
        for node in nodes:
            if node.op == "placeholder":
                self._done.add(node)
                continue
            if node in self.loops:
                loop = self.loops[node]
                self._waiting[node] = loop
                reads = {access.root for access in list_reads(loop)}
                before.add(node)
            elif self.is_operator(node):
                reads = self._roots(node.all_input_nodes)
                reads |= {
                    n for n in node.all_input_nodes if self.is_operator(n)
                }
            else:
                continue
            needs = reads | barriers
            for root in reads:
                needs |= changes.get(root, set())
                readers.setdefault(root, set()).add(node)
            for root in self._roots(list_written(node)):
                needs |= readers.get(root, set())
                changes.setdefault(root, set()).add(node)
                if root.op == "placeholder":
                    needs |= before
                    barriers = {node}
            self._needs[node] = needs - {node}

    def add_operator(self, node: fx.Node) -> None:
        """Lets torch run a node, after the loops that it depends on."""
        demanded = self._find_demanded(node)
        while demanded & self._waiting.keys():
            self._add_group(demanded)
        self.reads[node] = self._roots(node.all_input_nodes)
        self.stored |= self.reads[node]
        if node.op != "output":
            self.steps.append(node)
        self._done.add(node)

    def _find_demanded(self, node: fx.Node) -> set[fx.Node]:
        """Returns all waiting loops that come before an operator."""
        demanded: set[fx.Node] = set()
        open_nodes = [node]
        while open_nodes:
            new = self._needs.get(open_nodes.pop(), set()) - demanded
            new &= self._waiting.keys()
            demanded |= new
            open_nodes.extend(new)
        return demanded

    def _add_group(self, demanded: set[fx.Node]) -> None:
        """Runs all loops that can now run over the smallest fitting shape."""
        shapes = {
            loop.shape
            for node, loop in self._waiting.items()
            if (node in demanded or math.prod(loop.shape) <= SMALL)
            and self._needs[node] <= self._done
        }
        group = Group(min(shapes, key=lambda shape: (math.prod(shape), shape)))
        for node, loop in list(self._waiting.items()):
            if loop.shape != group.shape or not self._fits(loop, group):
                continue
            for access in list_reads(loop):
                if not group.computes(access):
                    self.stored.add(access.root)
            group.loops[node] = loop
            if loop.reduction is not None:
                self.stored.add(node)
            del self._waiting[node]
        self._done |= group.loops.keys()
        self.steps.append(group)

    def _fits(self, loop: Loop, group: Group) -> bool:
        """Returns whether a loop can run along with a group."""
        reads = list(list_reads(loop))
        inside = {access.root for access in reads if group.computes(access)}
        outside = {
            access.root for access in reads if not group.computes(access)
        }
        needs = self._needs[loop.node] - (inside - outside)
        return needs <= self._done

    def _roots(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Returns the nodes that own the storages of nodes' tensors."""
        roots = self.layout.roots
        return {roots[node] for node in nodes if node in roots}
