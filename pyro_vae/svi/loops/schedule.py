"""The order in which a graph's loops and torch's own operators run.

torch's operators keep their order. Before each of them come the products of
matrices and the loops that it depends on; loops over one shape run as one, a
group, as far as what they read allows, and smaller shapes come first, so that
larger ones wait for all that they can be computed along with.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import fx

from pyro_vae.svi.draws import is_random
from pyro_vae.svi.loops.changes import make_loops
from pyro_vae.svi.loops.gemm import Gemm, make_gemm
from pyro_vae.svi.loops.layout import (
    Access,
    Layout,
    Shape,
    list_written,
    skip_short,
)
from pyro_vae.svi.loops.loop import Loop

SMALL = 1 << 12  # elements of a group that need not wait
MOST = 64  # loops that run as one: gcc's time grows faster than a function


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
            and loop.results != ()
            and access.offset == 0
            and access.dtype == loop.dtype
            and skip_short(access.strides, self.shape)
            == skip_short(loop.results[0].strides, self.shape)
        )

    def list_reads(self) -> Iterator[Access]:
        """Yields what it reads from memory."""
        for loop in self.loops.values():
            for access in list_reads(loop):
                if not self.computes(access):
                    yield access

    def list_used(self) -> Iterator[fx.Node]:
        """Yields the owners of the storages that it reads, or changes."""
        for access in self.list_reads():
            yield access.root
        for loop in self.loops.values():
            if loop.target is not None:
                yield loop.target


Step = Group | Gemm  # what C computes


@dataclass
class Schedule:
    """The steps of a graph, in order.

    Attributes:
        steps: Groups, products, and nodes that torch runs.
        stored: The nodes whose loops or products store their results.
        reads: For each node that torch runs, the nodes that own the storages
            of its arguments.
        returned: Those that own the storages of the results.
    """

    steps: list[Step | fx.Node]
    stored: set[fx.Node]
    reads: dict[fx.Node, set[fx.Node]]
    returned: set[fx.Node]


def make_schedule(graph: fx.GraphModule, layout: Layout) -> Schedule:
    """Orders a graph's nodes."""
    nodes = [node for node in graph.graph.nodes if node.op != "output"]
    loops = make_loops(nodes, layout)
    products = {
        node: product
        for node in nodes
        if node not in loops
        and node.op == "call_function"
        and (product := make_gemm(node, layout)) is not None
    }
    scheduler = _Scheduler(layout, loops, products)
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
        loops: The loops of its nodes.
        products: The products; torch runs all other nodes.
    """

    def __init__(
        self,
        layout: Layout,
        loops: dict[fx.Node, Loop],
        products: dict[fx.Node, Gemm],
    ):
        self.layout, self.loops, self.products = layout, loops, products
        self.steps: list[Step | fx.Node] = []
        self.stored: set[fx.Node] = set()
        self.reads: dict[fx.Node, set[fx.Node]] = {}
        self._waiting: dict[fx.Node, int] = {}  # and their order
        self._by_shape: dict[Shape, dict[fx.Node, None]] = {}  # of the loops
        self._needs: dict[fx.Node, set[fx.Node]] = {}
        self._done: set[fx.Node] = set()

    def is_operator(self, node: fx.Node) -> bool:
        """Returns whether torch runs a node as a step of its own."""
        if self._is_ours(node) or node.op == "placeholder":
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
            if self._is_ours(node):
                open_nodes.extend(self._list_used(node))
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
        before: set[fx.Node] = set()  # all that C has computed so far
        barriers: set[fx.Node] = set()
        for node in nodes:
            if node.op == "placeholder":
                self._done.add(node)
                continue
            if self._is_ours(node):
                self._waiting[node] = len(self._waiting)
                if node in self.loops:
                    shape = self.loops[node].shape
                    self._by_shape.setdefault(shape, {})[node] = None
                reads = self._list_used(node)
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
        """Lets torch run a node, after all that it depends on."""
        demanded = self._find_demanded(node)
        products = demanded & self.products.keys()
        for product in sorted(products, key=self._waiting.__getitem__):
            self._add(product, self.products[product])
            del self._waiting[product]
        self.reads[node] = self._roots(node.all_input_nodes)
        self._add(node, node)

    def _add(self, node: fx.Node, step: Gemm | fx.Node) -> None:
        """Adds a product or an operator, after the loops it depends on."""
        demanded = self._find_demanded(node)
        while not self._waiting.keys().isdisjoint(demanded):
            self._add_group(demanded)
        self.stored |= self._roots(node.all_input_nodes)
        if node in self.products:
            self.stored.add(node)
        if node.op != "output":
            self.steps.append(step)
        self._done.add(node)

    def _find_demanded(self, node: fx.Node) -> set[fx.Node]:
        """Returns all that waits, and comes before a product or operator."""
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
        shapes = [s for s in self._by_shape if self._begins(s, demanded)]
        shape = min(shapes, key=lambda shape: (math.prod(shape), shape))
        group, waiting = Group(shape), self._by_shape[shape]
        for node in list(waiting):
            loop = self.loops[node]
            if not self._fits(loop, group):
                continue
            for access in list_reads(loop):
                if not group.computes(access):
                    self.stored.add(access.root)
            group.loops[node] = loop
            if loop.reduction is not None or loop.target is not None:
                self.stored.add(loop.owner)
            del self._waiting[node], waiting[node]
            if len(group.loops) == MOST:
                self._close(group)
                group = Group(shape)
        if group.loops:
            self._close(group)

    def _begins(self, shape: Shape, demanded: set[fx.Node]) -> bool:
        """Returns whether a group of a shape may run now."""
        is_small = math.prod(shape) <= SMALL
        return any(
            (is_small or node in demanded) and self._needs[node] <= self._done
            for node in self._by_shape[shape]
        )

    def _close(self, group: Group) -> None:
        self._done |= group.loops.keys()
        self.steps.append(group)

    def _fits(self, loop: Loop, group: Group) -> bool:
        """Returns whether a loop can run along with a group."""
        needs = self._needs[loop.node]
        is_ready = needs <= self._done
        if is_ready or loop.target is not None:
            return is_ready
        reads = list(list_reads(loop))
        inside = {access.root for access in reads if group.computes(access)}
        outside = {
            access.root for access in reads if not group.computes(access)
        }
        return bool(inside) and needs - (inside - outside) <= self._done

    def _is_ours(self, node: fx.Node) -> bool:
        """Returns whether C computes a node."""
        return node in self.loops or node in self.products

    def _list_used(self, node: fx.Node) -> set[fx.Node]:
        """Returns the owners of the storages that C reads, or changes."""
        if node in self.products:
            return set(self.products[node].list_used())
        loop = self.loops[node]
        used = {access.root for access in list_reads(loop)}
        return used if loop.target is None else used | {loop.target}

    def _roots(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Returns the nodes that own the storages of nodes' tensors."""
        roots = self.layout.roots
        return {roots[node] for node in nodes if node in roots}
