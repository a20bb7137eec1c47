"""Where the tensors of a recorded graph lie: shapes, strides and storages.

A recording tells what shares a storage. So a view is known as a part of the
tensor that it looks at, and need not be made.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx

from pyro_vae.svi.compat import is_written, writes_in_place
from pyro_vae.svi.record import list_tensors, read_example

Shape = tuple[int, ...]


class UnsuitableError(Exception):
    """A graph that loops cannot be made of; Inductor gets it."""


class Access(NamedTuple):
    """How a loop over some shape walks through a tensor's storage.

    Attributes:
        root: The node that the storage belongs to.
        offset: The first element, counted from the root's own first.
        strides: Elements between neighbors in each dimension of the loop.
        dtype: What lies there.
    """

    root: fx.Node
    offset: int
    strides: Shape
    dtype: torch.dtype


@dataclass
class Layout:
    """What is known of a graph's tensors before it runs.

    Attributes:
        values: Each node's result, without data.
        roots: For each node with a tensor, the one that owns its storage.
        written: The roots whose storages are changed in place.
    """

    values: dict[fx.Node, Any]
    roots: dict[fx.Node, fx.Node]
    written: set[fx.Node]

    def is_view(self, node: fx.Node) -> bool:
        """Returns whether a node's tensors lie in those of another."""
        value = self.values[node]
        if isinstance(value, list | tuple):
            return _is_split(node)
        return isinstance(value, Tensor) and self.roots[node] is not node

    def is_plain(self, node: fx.Node) -> bool:
        """Returns whether a tensor's elements are those of its storage."""
        value, owner = self.values[node], self.values[self.roots[node]]
        return value.dtype == owner.dtype and not value.is_neg()

    def access(self, node: fx.Node, shape: Shape) -> Access:
        """Returns how a loop over a shape reads a node that broadcasts."""
        value, root = self.values[node], self.roots[node]
        missing = len(shape) - value.dim()
        strides = tuple(
            0 if size == 1 else stride
            for size, stride in zip(value.shape, value.stride(), strict=True)
        )
        offset = value.storage_offset() - self.values[root].storage_offset()
        return Access(root, offset, (0,) * missing + strides, value.dtype)


def lay_out(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Layout:
    """Finds the layouts of a graph of ATen operations, without running it.

    Raises:
        UnsuitableError: If the graph has something else, or is not for the CPU.
    """
    layout = Layout({}, {}, set())
    finder = _Finder(layout)
    given = iter(inputs)
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            value: Any = _without_data(next(given))
        else:
            value = finder.find(node)
        layout.values[node] = value
        finder.note(node)
        for argument in list_written(node):
            layout.written.add(layout.roots[argument])
    return layout


class _Finder:
    """Finds nodes' layouts: as they were recorded, or without data."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self._owners: dict[int, fx.Node] = {}  # of storages

    def find(self, node: fx.Node) -> Any:
        """Returns a node's result, without data."""
        _check_operator(node)
        example = read_example(node)
        if example is None:
            return self._find_several(node)
        if example.device.type != "cpu":
            raise UnsuitableError(f"{node.target} has a result elsewhere")
        if example.source is None:
            return example.make()
        source = self.layout.values[list_tensors(node)[example.source]]
        is_plain = not (source.is_neg() or source.is_conj())
        if source.dtype != example.dtype or not is_plain:
            return self._run(node)
        offset = source.storage_offset() + example.shift
        try:
            return source.as_strided(example.shape, example.strides, offset)
        except RuntimeError as error:
            raise UnsuitableError("a view of more than an input") from error

    def _find_several(self, node: fx.Node) -> Any:
        """Returns a list for a node whose results have nodes of their own."""
        if node.users and all(
            user.target is operator.getitem and read_example(user)
            for user in node.users
        ):
            return []
        return self._run(node)

    def _run(self, node: fx.Node) -> Any:
        """Runs an operator on tensors without data."""
        values = self.layout.values
        args: Any = fx.map_arg(node.args, values.get)
        kwargs = dict(fx.map_arg(node.kwargs, values.get))
        if "device" in kwargs:
            kwargs["device"] = "meta"
        try:
            return cast(Any, node.target)(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as error:
            raise UnsuitableError(f"{node.target} has no layout") from error

    def note(self, node: fx.Node) -> None:
        """Remembers which node a storage belongs to."""
        value = self.layout.values[node]
        if isinstance(value, Tensor):
            storage = value.untyped_storage()._cdata
            self.layout.roots[node] = self._owners.setdefault(storage, node)


def list_written(node: fx.Node) -> Iterable[fx.Node]:
    """Yields the arguments that an operator changes in place."""
    if not writes_in_place(node):
        return
    schema = cast(Any, node.target)._schema
    named = dict(node.kwargs)
    positional = zip(schema.arguments, node.args, strict=False)
    named.update({argument.name: value for argument, value in positional})
    for argument in schema.arguments:
        value = cast(Any, named.get(argument.name))
        if is_written(schema, argument) and value is not None:
            yield from value if isinstance(value, list | tuple) else [value]


def _without_data(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise UnsuitableError("a tensor that is not strided, or on the CPU")
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
    )


def _check_operator(node: fx.Node) -> None:
    if node.op != "call_function" or not (
        isinstance(node.target, torch._ops.OpOverload)
        or node.target is operator.getitem
    ):
        raise UnsuitableError(f"{node.target} is no operator of ATen")


def skip_short(strides: Sequence[int], shape: Sequence[int]) -> Shape:
    """Returns the strides of dimensions that have more than one element."""
    return tuple(
        stride for stride, size in zip(strides, shape, strict=True) if size > 1
    )


def _is_split(node: fx.Node) -> bool:
    """Returns whether an operator returns several views."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        argument.alias_info is not None and not argument.alias_info.is_write
        for argument in schema.arguments
    )
