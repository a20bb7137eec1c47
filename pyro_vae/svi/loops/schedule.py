"""The order in which a graph's loops and torch's own operators run.

torch's operators keep their order. Before each of them come the products of
matrices and the loops that it depends on; loops over one shape run as one, a
group, as far as what they read allows, and smaller shapes come first, so that
larger ones wait for all that they can be computed along with.
"""

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import fx

from pyro_vae.svi.draws import is_random
from pyro_vae.svi.loops.changes import make_loops
from pyro_vae.svi.loops.gemm import Gemm, make_gemm
from pyro_vae.svi.loops.groups import Group, list_reads
from pyro_vae.svi.loops.layout import Layout, Shape, list_written
from pyro_vae.svi.loops.loop import Loop

SMALL = 1 << 12  # elements of a group that need not wait
MOST = 64  # loops that run as one: gcc's time grows faster than a function


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
        self._order: dict[fx.Node, int] = {}  # of what C computes
        self._needs: dict[fx.Node, set[fx.Node]] = {}  # not computed so far
        self._users: dict[fx.Node, list[fx.Node]] = {}  # that need a node
        self._ready: dict[Shape, set[fx.Node]] = {}  # loops that need nothing

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
        before: set[fx.Node] = set()  # what C computes after the barriers
        barriers: set[fx.Node] = set()
        for node in nodes:
            if self._is_ours(node):
                self._order[node] = len(self._order)
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
                    before, barriers = set(), {node}
            self._note_needs(node, needs - {node})

    def _note_needs(self, node: fx.Node, needs: set[fx.Node]) -> None:
        """Notes what a node must come after; graph inputs are there."""
        needs = {need for need in needs if need.op != "placeholder"}
        self._needs[node] = needs
        for need in needs:
            self._users.setdefault(need, []).append(node)
        if not needs and node in self.loops:
            self._ready.setdefault(self.loops[node].shape, set()).add(node)

    def add_operator(self, node: fx.Node) -> None:
        """Lets torch run a node, after all that it depends on."""
        products = self._find_demanded(node) & self.products.keys()
        for product in sorted(products, key=self._order.__getitem__):
            self._add(product, self.products[product])
        self.reads[node] = self._roots(node.all_input_nodes)
        self._add(node, node)

    def _add(self, node: fx.Node, step: Gemm | fx.Node) -> None:
        """Adds a product or an operator, after the loops it depends on."""
        demanded = self._find_demanded(node)
        while demanded:
            demanded -= self._add_loops(demanded)
        self.stored |= self._roots(node.all_input_nodes)
        if node in self.products:
            self.stored.add(node)
        if node.op != "output":
            self.steps.append(step)
        self._finish(node)

    def _find_demanded(self, node: fx.Node) -> set[fx.Node]:
        """Returns all that waits, and comes before a product or operator."""
        demanded: set[fx.Node] = set()
        open_nodes = [node]
        while open_nodes:
            new = self._needs[open_nodes.pop()] - demanded
            demanded |= new
            open_nodes.extend(new)
        return demanded

    def _add_loops(self, demanded: set[fx.Node]) -> set[fx.Node]:
        """Runs all loops that can now run over the smallest fitting shape."""
        shapes = [
            shape
            for shape, ready in self._ready.items()
            if not ready.isdisjoint(demanded)
            or (ready and math.prod(shape) <= SMALL)
        ]
        shape = min(shapes, key=lambda shape: (math.prod(shape), shape))
        added: set[fx.Node] = set()
        group = Group(shape)
        queue = [(self._order[node], node) for node in self._ready[shape]]
        heapq.heapify(queue)
        while queue:
            node = heapq.heappop(queue)[1]
            if not self._fits(self.loops[node], group):
                continue
            self._join(self.loops[node], group)
            added.add(node)
            for user in self._list_freed(node, group):
                heapq.heappush(queue, (self._order[user], user))
            if len(group.loops) == MOST:
                self._close(group)
                group = Group(shape)
        self._close(group)
        return added

    def _fits(self, loop: Loop, group: Group) -> bool:
        """Returns whether a loop can run along with a group."""
        needs = self._needs[loop.node]
        if not needs or loop.target is not None:
            return not needs
        reads = list(list_reads(loop))
        inside = {access.root for access in reads if group.computes(access)}
        outside = {
            access.root for access in reads if not group.computes(access)
        }
        return needs <= inside - outside

    def _join(self, loop: Loop, group: Group) -> None:
        """Lets a loop run along with a group."""
        for access in list_reads(loop):
            if not group.computes(access):
                self.stored.add(access.root)
        group.loops[loop.node] = loop
        if loop.reduction is not None or loop.target is not None:
            self.stored.add(loop.owner)

    def _list_freed(self, node: fx.Node, group: Group) -> Iterator[fx.Node]:
        """Yields the loops that need nothing more than a group with a node."""
        for user in self._users.get(node, ()):
            if (
                user in self.loops
                and self.loops[user].shape == group.shape
                and self._needs[user] <= group.loops.keys()
            ):
                yield user

    def _close(self, group: Group) -> None:
        """Adds a group, unless it is empty."""
        if group.loops:
            self.steps.append(group)
        for node in group.loops:
            self._finish(node)
            self._ready[group.shape].discard(node)

    def _finish(self, node: fx.Node) -> None:
        """Notes that a node is computed."""
        for user in self._users.pop(node, ()):
            self._needs[user].discard(node)
            if not self._needs[user] and user in self.loops:
                shape = self.loops[user].shape
                self._ready.setdefault(shape, set()).add(user)

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
