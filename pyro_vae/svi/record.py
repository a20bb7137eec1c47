"""A record of what a function does to tensors: a graph of ATen operators.

The function runs once, on real tensors. What reaches the operators below
autograd is noted: through Pyro's handlers, the distributions and the backward
pass. torch's own `make_fx` does so, too, but imports torch's compilers for it,
which takes a second, and a millisecond for each operator.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from pyro_vae.svi.compat import (
    OperatorMode,
    WeakTensorKeys,
    aten,
    handles_operators,
)


class Example(NamedTuple):
    """What a node's result was like when it was recorded.

    Attributes:
        shape: Its shape.
        strides: Its strides.
        dtype: Its dtype.
        device: Its device.
        source: If it is a view, the place of what it is a view of among the
            tensors in the arguments of its operator, in their order.
        shift: The first element, counted from the first one of that tensor.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    source: int | None = None
    shift: int = 0

    def make(self) -> Tensor:
        """Returns a tensor like it, without data."""
        return torch.empty_strided(
            self.shape, self.strides, dtype=self.dtype, device="meta"
        )


def read_example(node: fx.Node) -> Example | None:
    """Returns what a node's result was like; None of one that is no tensor.

    None, too, of a node that was not recorded, and of a tensor that is not
    strided or whose elements stand negated or conjugated.
    """
    example: Example | None = node.meta.get("example")
    return example


def is_strided(node: fx.Node) -> bool:
    """Returns whether a node's result is no sparse tensor."""
    return bool(node.meta.get("is_strided", True))


def set_example(node: fx.Node, like: fx.Node) -> None:
    """Describes a new node's result as another's, but as no view."""
    example = read_example(like)
    if example is not None:
        node.meta["example"] = example._replace(source=None, shift=0)


def list_tensors(node: fx.Node) -> list[fx.Node]:
    """Returns the nodes of the tensors in the arguments of an operator.

    For one of several results, of the operator that returns them.
    """
    while node.target is operator.getitem:
        node = cast(fx.Node, node.args[0])
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


@dataclass
class Record:
    """A recorded function.

    Attributes:
        graph: It takes the inputs, and then the constants.
        constants: Tensors that the function has found elsewhere.
    """

    graph: fx.Graph
    constants: list[Tensor]


def record(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]
) -> Record:
    """Runs a function of tensors, and records it.

    `backward` is recorded, and so are random draws and changes in place, in
    their order.

    Args:
        function: Takes tensors, and returns a list of tensors.
        inputs: What it is run on, recognized wherever the function reads them.
    """
    recorder = _Recorder(inputs)
    # torch compiles nothing in a mode, and runs what it has as it is written.
    with _without_kept_casts(), recorder:
        results = function(*inputs)
    recorder.finish(results)
    return Record(recorder.graph, recorder.constants)


@contextmanager
def _without_kept_casts() -> Iterator[None]:
    """Has autocast convert a parameter anew at each use.

    It would keep those from before the recording, or from inside it.
    """
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)


# The place of the first tensor of each storage, and its first element there.
Sources = dict[int, tuple[int, int]]


class _Recorder(OperatorMode):
    """Notes the operators that are called, and what their arguments are."""

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        self.graph = fx.Graph()
        self.constants: list[Tensor] = []
        self._nodes: Any = WeakTensorKeys()
        self._last: fx.Node | None = None  # of the graph's inputs
        for place, tensor in enumerate(inputs):
            self._add_input(f"input_{place}", tensor)

    def __torch_dispatch__(
        self,
        function: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if any(map(handles_operators, types)):
            return NotImplemented
        if torch.is_inference_mode_enabled():
            with self:  # autograd, which is off, would have taken it apart
                result = function.decompose(*args, **options)
            if result is not NotImplemented:
                return result
        if function is aten.lift_fresh.default:
            # Whatever is done to the new tensor, the constant stays.
            function = aten.lift_fresh_copy.default
        tensors: list[Tensor] = []

        def find(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            tensors.append(value)
            return self._find(value)

        given = map_aggregate((tuple(args), options), find)
        node = self.graph.call_function(function, *given)
        sources: Sources = {}
        for place, tensor in enumerate(tensors):
            if tensor.layout == torch.strided:
                at = (place, int(tensor.storage_offset()))
                sources.setdefault(_address(tensor), at)
        try:
            results = function(*args, **options)
        except Exception:  # the caller may know what to do instead
            self.graph.erase_node(node)
            raise
        self._note(results, node, sources)
        return results

    def finish(self, results: Sequence[Tensor]) -> None:
        """Makes tensors the results of the graph."""
        self.graph.output([self._find(tensor) for tensor in results])

    def _find(self, tensor: Tensor) -> fx.Node:
        """Returns the node of a tensor; one from elsewhere is a constant."""
        node: fx.Node | None = self._nodes.get(tensor)
        if node is None:
            node = self._add_input(f"constant_{len(self.constants)}", tensor)
            self.constants.append(tensor)
        return node

    def _add_input(self, name: str, tensor: Tensor) -> fx.Node:
        """Adds an input of the graph, after the others.

        Raises:
            ValueError: If it is not what lies in memory.
        """
        if tensor.is_conj() or tensor.is_neg():
            raise ValueError(
                "a tensor is a conjugated or negated view; expected "
                "tensor.resolve_conj().resolve_neg()"
            )
        graph, last = self.graph, self._last
        with (
            graph.inserting_before()  # all other nodes
            if last is None
            else graph.inserting_after(last)
        ):
            self._last = graph.placeholder(name)
        self._note(tensor, self._last, {})
        return self._last

    def _note(self, results: Any, node: fx.Node, sources: Sources) -> None:
        """Notes what a node returns: a tensor, or several.

        Args:
            results: What it returns.
            node: The node.
            sources: What its arguments' storages are, by their addresses.
        """
        if isinstance(results, Tensor):
            self._nodes[results] = node
            node.meta["example"] = _describe(results, sources)
            node.meta["is_strided"] = results.layout == torch.strided
        elif isinstance(results, list | tuple):
            for place, result in enumerate(results):
                if isinstance(result, Tensor | list | tuple):
                    part = self.graph.call_function(
                        operator.getitem, (node, place)
                    )
                    self._note(result, part, sources)


def _describe(tensor: Tensor, sources: Sources) -> Example | None:
    """Describes a result of an operator with such arguments."""
    if tensor.layout != torch.strided or tensor.is_neg() or tensor.is_conj():
        return None
    shape, strides = tuple(tensor.shape), tensor.stride()
    example = Example(shape, strides, tensor.dtype, tensor.device)
    place, offset = sources.get(_address(tensor), (None, 0))
    if place is None:
        return example
    return example._replace(
        source=place, shift=int(tensor.storage_offset()) - offset
    )


def _address(tensor: Tensor) -> int:
    """Returns where a tensor's storage begins, or a negative number.

    Storages of no bytes begin nowhere.
    """
    try:
        return tensor.untyped_storage().data_ptr() or -id(tensor)
    except RuntimeError:  # a tensor of zeros that torch.func has made
        return -id(tensor)
