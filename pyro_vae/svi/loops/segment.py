"""Steps with no operator of torch's in between: one function in C."""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx

from pyro_vae.svi.loops.groups import Group
from pyro_vae.svi.loops.layout import Layout
from pyro_vae.svi.loops.pointers import Functions, Pointers
from pyro_vae.svi.loops.schedule import Step
from pyro_vae.svi.loops.source import GroupSource

ALIGNED = 64  # bytes
OWN = 1 << 16  # bytes of an intermediate result that a segment keeps

_Span = tuple[int, int]  # where a part of memory begins and ends


class Segment:
    """A function in C, called with tensors.

    Args:
        number: The segment's number in its graph.
        steps: Its steps, in order.
        kept: The nodes whose results are used after it.
        returned: The nodes whose results the graph returns. The memory of
            other small ones is the segment's own, and used at each call.
        stored: All nodes whose results are stored.
        layout: The graph's layout.
        functions: The graph's functions, which this one calls.

    Attributes:
        inputs: The nodes that it takes, in order.
        outputs: The nodes that it returns, in order.
        source: The function in C.
    """

    def __init__(
        self,
        number: int,
        steps: Sequence[Step],
        kept: set[fx.Node],
        returned: set[fx.Node],
        stored: set[fx.Node],
        layout: Layout,
        functions: Functions,
    ):
        self.__name__ = self.__qualname__ = f"segment_{number}"  # fx asks
        made = dict.fromkeys(
            node for step in steps for node in _list_made(step, stored)
        )
        self.outputs = [node for node in made if node in kept]
        self.inputs = [root for root in list_used(steps) if root not in made]
        results = {node: layout.values[node] for node in self.outputs}
        self._own = [
            _make(value)
            if node not in returned and _count_bytes(value) <= OWN
            else None
            for node, value in results.items()
        ]
        self._fresh = [
            (place, value)
            for place, value in enumerate(results.values())
            if self._own[place] is None
        ]
        arguments = [*self.inputs, *self.outputs]
        names = {node: f"p[{place}]" for place, node in enumerate(arguments)}
        scratch = self._share(steps, kept, stored, layout)
        for node, (start, _) in scratch.items():
            names[node] = f"(scratch + {start}L)"
        self._scratch = max((end for _, end in scratch.values()), default=0)
        self.source = "\n".join(self._write(steps, stored, names, functions))
        self._memory: Tensor | None = None
        self._function: Callable[..., None] | None = None

    def _share(
        self,
        steps: Sequence[Step],
        kept: set[fx.Node],
        stored: set[fx.Node],
        layout: Layout,
    ) -> dict[fx.Node, _Span]:
        """Returns where each result lies that nothing uses afterwards.

        Memory is used again for a later step's results, after the last step
        that reads it.
        """
        last = {
            node: place
            for place, step in enumerate(steps)
            for node in (*_list_made(step, stored), *step.list_used())
        }
        ends: dict[int, list[fx.Node]] = {}
        for node, place in last.items():
            ends.setdefault(place, []).append(node)
        memory, spans = _Memory(), dict[fx.Node, _Span]()
        for place, step in enumerate(steps):
            for node in _list_made(step, stored):
                if node not in kept:
                    size = _count_bytes(layout.values[node])
                    spans[node] = memory.take(size)
            for node in ends.get(place, ()):
                if node in spans:
                    memory.release(spans[node])
        return spans

    def _write(
        self,
        steps: Sequence[Step],
        stored: set[fx.Node],
        names: dict[fx.Node, str],
        functions: Functions,
    ) -> Iterator[str]:
        """Yields calls of a function for each step."""
        yield f"void {self.__name__}(char *const *p, char *scratch) {{"
        for step in steps:
            pointers = Pointers(names)
            if isinstance(step, Group):
                body = GroupSource(step, stored, pointers).write()
            else:
                body = step.write(pointers)
            yield from functions.call(body, pointers)
        yield "}"

    def load(self, library: ctypes.CDLL) -> None:
        """Takes its function from a library."""
        function = getattr(library, self.__name__)
        # One array: ctypes takes 1,024 arguments at most.
        count = len(self.inputs) + len(self.outputs)
        self._pointers = (ctypes.c_void_p * count)()
        for place, tensor in enumerate(self._own, len(self.inputs)):
            if tensor is not None:
                self._pointers[place] = tensor.data_ptr()
        if self._scratch <= OWN:
            self._memory = _make_bytes(self._scratch)
        function.argtypes = [type(self._pointers), ctypes.c_void_p]
        function.restype = None
        self._function = function

    def __call__(self, *tensors: Tensor) -> list[Tensor | None]:
        assert self._function is not None
        made, count = self._own.copy(), len(tensors)
        self._pointers[:count] = [tensor.data_ptr() for tensor in tensors]
        for place, like in self._fresh:
            result = made[place] = _make(like)
            self._pointers[count + place] = result.data_ptr()
        scratch = self._memory
        if scratch is None:
            scratch = _make_bytes(self._scratch)
        self._function(self._pointers, scratch.data_ptr())
        return made


def _make(like: Tensor) -> Tensor:
    """Returns a tensor for a result, whatever the default device."""
    return torch.empty_strided(
        like.shape, like.stride(), dtype=like.dtype, device="cpu"
    )


def _make_bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, device="cpu")


class _Memory:
    """Hands out parts of one piece of memory."""

    def __init__(self) -> None:
        self._free: list[_Span] = []  # in order, with gaps between them
        self._end = 0

    def take(self, size: int) -> _Span:
        """Returns the smallest free part that is long enough, or a new one."""
        size = -(-max(size, 1) // ALIGNED) * ALIGNED
        fitting = [span for span in self._free if span[1] - span[0] >= size]
        if not fitting:
            start, self._end = self._end, self._end + size
            return start, self._end
        start, end = min(fitting, key=lambda span: span[1] - span[0])
        self._free.remove((start, end))
        if start + size < end:
            self._free.append((start + size, end))
        return start, start + size

    def release(self, span: _Span) -> None:
        """Takes a part back, and joins it with free ones beside it."""
        start, end = span
        for other in list(self._free):
            if other[1] == start or other[0] == end:
                self._free.remove(other)
                start, end = min(start, other[0]), max(end, other[1])
        self._free.append((start, end))


def _count_bytes(value: Tensor) -> int:
    """Returns how far a tensor's elements reach."""
    steps = zip(value.shape, value.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    return int(last + 1) * value.element_size()


def _list_made(step: Step, stored: set[fx.Node]) -> list[fx.Node]:
    """Returns the nodes whose tensors a step makes."""
    if not isinstance(step, Group):
        return [step.node]
    return [
        node
        for node, loop in step.loops.items()
        if node in stored and loop.target is None
    ]


def list_used(steps: Iterable[Step]) -> Iterable[fx.Node]:
    """Returns the nodes whose tensors steps read or change, each once."""
    return dict.fromkeys(node for step in steps for node in step.list_used())
