"""A recorded graph whose elementwise operations run as loops in C."""

import ctypes
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.loops.compiler import load_library
from pyro_vae.svi.loops.layout import Layout, lay_out, list_written
from pyro_vae.svi.loops.schedule import (
    Group,
    Schedule,
    list_reads,
    make_schedule,
)
from pyro_vae.svi.loops.source import GroupSource, write_header
from pyro_vae.svi.record import set_example

ALIGNED = 64  # bytes


class Segment:
    """Groups with no operator of torch's in between: one function in C.

    Args:
        number: The segment's number in its graph.
        groups: Its groups, in order.
        kept: The nodes whose results are used after it.
        stored: All nodes whose results are stored.
        layout: The graph's layout.

    Attributes:
        inputs: The nodes that it takes, in order.
        outputs: The nodes that it returns, in order.
        source: The function in C, and those that it calls.
    """

    def __init__(
        self,
        number: int,
        groups: Sequence[Group],
        kept: set[fx.Node],
        stored: set[fx.Node],
        layout: Layout,
    ):
        self.__name__ = self.__qualname__ = f"segment_{number}"  # fx asks
        stores = [n for group in groups for n in group.loops if n in stored]
        made = dict.fromkeys(stores)
        self.outputs = [node for node in made if node in kept]
        self.inputs = [root for root in _list_roots(groups) if root not in made]
        self._made = [
            (value.shape, value.stride(), value.dtype)
            for value in map(layout.values.__getitem__, self.outputs)
        ]
        arguments = [*self.inputs, *self.outputs]
        names = {node: f"p[{place}]" for place, node in enumerate(arguments)}
        self._scratch = 0
        for node in [node for node in made if node not in kept]:
            value = layout.values[node]
            names[node] = f"(scratch + {self._scratch}L)"
            size = value.numel() * value.element_size()
            self._scratch += -(-size // ALIGNED) * ALIGNED
        self.source = "\n".join(self._write(groups, stored, names))
        self._function: Callable[..., None] | None = None

    def _write(
        self,
        groups: Sequence[Group],
        stored: set[fx.Node],
        names: dict[fx.Node, str],
    ) -> Iterator[str]:
        """Yields a function for each group, which gcc is quicker with."""
        taken, calls = "(char *const *p, char *scratch)", []
        for place, group in enumerate(groups):
            name = f"{self.__name__}_{place}"
            calls.append(f"{name}(p, scratch);")
            # Nor does gcc 12 see what another function writes by `restrict`.
            yield f"static __attribute__((noipa)) void {name}{taken}"
            yield from GroupSource(group, stored, names).write()
        yield from (f"void {self.__name__}{taken} {{", *calls, "}")

    def load(self, library: ctypes.CDLL) -> None:
        """Takes its function from a library."""
        function = getattr(library, self.__name__)
        # One array: ctypes takes 1,024 arguments at most.
        count = len(self.inputs) + len(self.outputs)
        self._pointers = ctypes.c_void_p * count
        function.argtypes = [self._pointers, ctypes.c_void_p]
        function.restype = None
        self._function = function

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        assert self._function is not None
        made = [
            torch.empty_strided(shape, strides, dtype=dtype)
            for shape, strides, dtype in self._made
        ]
        scratch = torch.empty(self._scratch, dtype=torch.uint8)
        given = [tensor.data_ptr() for tensor in (*tensors, *made)]
        self._function(self._pointers(*given), scratch.data_ptr())
        return made


def _list_roots(groups: Sequence[Group]) -> Iterable[fx.Node]:
    """Returns the nodes whose tensors groups read, each once."""
    return dict.fromkeys(
        access.root
        for group in groups
        for loop in group.loops.values()
        for access in list_reads(loop)
        if not group.computes(access)
    )


class _Builder:
    """Builds the graph of segments, and of what torch runs between them."""

    def __init__(self, layout: Layout):
        self.layout, self.graph = layout, fx.Graph()
        self._known: dict[fx.Node, fx.Node] = {}

    def copy(self, node: fx.Node) -> fx.Node:
        """Returns a node's copy, after copies of all that it needs."""
        if node not in self._known:
            self._known[node] = self._copy(node)
        return self._known[node]

    def _copy(self, node: fx.Node) -> fx.Node:
        """Copies a node; a view is taken of the storage's owner at once."""
        root = self.layout.roots.get(node)
        if root is None or root is node or any(list_written(node)):
            return self.graph.node_copy(node, self.copy)
        value, owner = self.layout.values[node], self.layout.values[root]
        # Where an input begins in its storage is not known.
        is_part = value.storage_offset() != owner.storage_offset()
        if is_part or not self.layout.is_plain(node):
            return self.graph.node_copy(node, self.copy)
        known, shape = self.copy(root), tuple(value.shape)
        if (shape, value.stride()) == (tuple(owner.shape), owner.stride()):
            return known
        return self.graph.call_function(
            aten.as_strided.default, (known, shape, value.stride())
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
    _split_biases(graph.graph)
    layout = lay_out(graph, inputs)
    schedule = make_schedule(graph, layout)
    builder, segments = _Builder(layout), list[Segment]()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            builder.copy(node)
    for part in _cut(schedule):
        if isinstance(part, fx.Node):
            builder.copy(part)
            continue
        groups, kept = part
        stored = schedule.stored
        segment = Segment(len(segments), groups, kept, stored, layout)
        segments.append(segment)
        builder.call(segment)
    results = next(node for node in graph.graph.nodes if node.op == "output")
    builder.copy(results)
    sources = [write_header(), *(segment.source for segment in segments)]
    if segments:
        library = load_library("\n".join(sources))
        for segment in segments:
            segment.load(library)
    return fx.GraphModule({}, builder.graph)


def _cut(
    schedule: Schedule,
) -> list[fx.Node | tuple[list[Group], set[fx.Node]]]:
    """Returns operators, and the groups between them.

    With each run of groups come the nodes that are used after it.
    """
    parts: list[fx.Node | tuple[list[Group], set[fx.Node]]] = []
    used = set(schedule.returned)
    run: list[Group] = []
    for step in reversed([None, *schedule.steps]):
        if isinstance(step, Group):
            run.insert(0, step)
            continue
        if run:
            parts.append((run, set(used)))
            used |= set(_list_roots(run))
            run = []
        if step is not None:
            parts.append(step)
            used |= schedule.reads[step]
    return parts[::-1]


def _split_biases(graph: fx.Graph) -> None:
    """Adds the bias of a matrix product by itself, in a loop with others."""
    for node in list(graph.nodes):
        if node.target is not aten.addmm.default or node.kwargs:
            continue
        bias, left, right = node.args
        with graph.inserting_before(node):
            product = graph.call_function(aten.mm.default, (left, right))
            result = graph.call_function(aten.add.Tensor, (product, bias))
        set_example(product, node)
        set_example(result, node)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
