"""What cannot be recorded, and the sentences that say so, with their lines."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from sys import _getframe as get_frame
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pyro_vae.svi.compat import aten, is_validation, read_example, untraced
from pyro_vae.svi.places import is_foreign

_ADVICE = "use torch.where, poutine.mask and the like, or pyro.infer.SVI"
_FREEZING = {
    Tensor.__bool__: "bool(tensor)",
    Tensor.__int__: "int(tensor)",
    Tensor.__float__: "float(tensor)",
    Tensor.__index__: "a tensor as an index or a size",
    Tensor.tolist: "tensor.tolist()",
    Tensor.numpy: "tensor.numpy()",
    Tensor.__array__: "numpy.asarray(tensor)",
}
# Operators whose results have as many entries as there are of some values.
_GROWING = {
    aten.nonzero.default: "torch.nonzero",
    aten.masked_select.default: "torch.masked_select",
    aten._unique2.default: "torch.unique",
    aten.unique_dim.default: "torch.unique",
    aten.unique_consecutive.default: "torch.unique_consecutive",
    aten.repeat_interleave.Tensor: "torch.repeat_interleave",
    aten._pack_padded_sequence.default: "pack_padded_sequence",
}


class DynamicPairError(ValueError):
    """A pair's structure depends on values or on chance."""


class CompilationError(OSError):
    """A graph could not be compiled on this machine."""


@dataclass
class Read:
    """A tensor's value that Python has read while a graph was recorded.

    Attributes:
        tensor: The tensor, as the recording has it.
        value: Its value then.
        way: How it was read, and where: `int(tensor), in model() at line 3`.
    """

    tensor: Tensor
    value: Tensor
    way: str

    def refuse(self) -> NoReturn:
        """Raises DynamicPairError: the value is none to rely on."""
        raise DynamicPairError(
            f"the model or guide asks for a tensor's value, by {self.way}, so "
            "that its structure may depend on it; expected a static pair: "
            f"{_ADVICE}"
        )

    def check(self, value: Tensor) -> None:
        """Raises DynamicPairError if the value is another one."""
        if torch.equal(value, self.value):
            return
        then, now = (
            f"{v.item():g}" if v.numel() == 1 else "other numbers"
            for v in (self.value, value)
        )
        raise DynamicPairError(
            f"the model or guide asks for a tensor's value, by {self.way}: it "
            f"was {then} when the step was recorded, and is {now}; expected "
            f"the same at every step: {_ADVICE}"
        )


class Recording(TorchFunctionMode):
    """Sees to Python's view of a tensor's value, which a graph would freeze.

    `item` stays a tensor: Pyro's losses and a user's arithmetic go on with
    it, cut off from autograd as a number would be. What distributions ask in
    order to validate is answered with yes: eager steps validate. What else is
    asked for is noted in `reads`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Read] = []

    def __torch_function__(
        self,
        function: Callable,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is Tensor.item:
            return args[0].detach()
        if function is Tensor.__bool__ and is_validation(get_frame(1)):
            return True
        if function in _FREEZING:
            tensor, way = args[0].detach(), _FREEZING[function] + find_line()
            with untraced():
                value = tensor.clone()
                self.reads.append(Read(tensor, value, way))
                return function(value, *args[1:], **(kwargs or {}))
        if function is Tensor.__getitem__ and _has_mask(args[1]):
            raise DynamicPairError(
                f"the model or guide takes entries by a boolean mask, "
                f"x[mask], whose number depends on values{find_line()}; "
                f"expected a static pair: {_ADVICE}"
            )
        if function is F.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _has_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(
        isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
        for part in parts
    )


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Returns one-hot vectors as torch's function does, without its checks."""
    if num_classes < 0:
        raise DynamicPairError(
            f"the model or guide calls one_hot without a number of classes, "
            f"which then depends on values{find_line()}; expected "
            "one_hot(y, num_classes)"
        )
    classes = torch.arange(num_classes, device=tensor.device)
    return (tensor.unsqueeze(-1) == classes).to(torch.int64)


def refuse_dynamic(graph: fx.GraphModule) -> None:
    """Refuses a record in which the shape of a result depends on values.

    Raises:
        DynamicPairError: If there is such a result, or a generator of the
            user's own, whose draws a graph would not repeat.
    """
    for node in graph.graph.nodes:
        name = _GROWING.get(node.target)
        if node.target is aten.index.Tensor and any(
            _is_mask(index) for index in node.args[1]
        ):
            name = "x[mask]"
        if name is not None:
            raise DynamicPairError(
                f"the model or guide calls {name}, whose result has a shape "
                f"that depends on values; expected a static pair: {_ADVICE}"
            )
        if node.kwargs.get("generator") is not None:
            raise DynamicPairError(
                "the model or guide draws from a torch.Generator of its own; "
                "expected draws from torch's global generator: use "
                "torch.manual_seed, or pyro.infer.SVI"
            )


def choose_checks(
    graph: fx.GraphModule, reads: Sequence[Read], inputs: Sequence[Tensor]
) -> list[Read]:
    """Leaves, of the values that Python has read, those to check at each call.

    Args:
        graph: A record; its last results are the tensors that were read. Those
            that need no check are taken out of them.
        reads: What was read.
        inputs: The example inputs.

    Returns:
        What is to be compared with the results that are left.

    Raises:
        DynamicPairError: If a value depends on a parameter or on chance.
    """
    nodes = graph.graph
    placeholders = nodes.find_nodes(op="placeholder")
    known = dict(zip(placeholders, inputs, strict=False))
    sources = _list_sources(nodes)
    (output,) = nodes.find_nodes(op="output")
    results = list(output.args[0])
    count = len(results) - len(reads)
    chosen: dict[fx.Node, Read] = {}
    for read, node in zip(reads, results[count:], strict=True):
        origins = sources.get(node, set())
        for origin in origins:
            if origin not in known or known[origin].requires_grad:
                read.refuse()
        if origins:
            chosen[node] = read
    output.args = ([*results[:count], *chosen],)
    graph.recompile()
    return list(chosen.values())


def _list_sources(graph: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    """Returns the inputs and the random draws that each node depends on."""
    sources: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        tags = getattr(node.target, "tags", ())
        if (
            node.op == "placeholder"
            or torch.Tag.nondeterministic_seeded in tags
        ):
            sources[node] = {node}
        else:
            before = [sources[each] for each in node.all_input_nodes]
            sources[node] = set().union(*before)
    return sources


def _is_mask(index: Any) -> bool:
    example = read_example(index) if isinstance(index, fx.Node) else None
    return isinstance(example, Tensor) and example.dtype in (
        torch.bool,
        torch.uint8,
    )


def explain(error: Exception) -> Exception:
    """Returns what to raise for an error of a recording.

    A refusal keeps its type: Pyro hides the errors of a site's `log_prob` in
    others. Another error is one that only the recording meets, since the pair
    has just run eagerly.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DynamicPairError):
            return cause
        cause = cause.__cause__ or cause.__context__
    line = find_line(error.__traceback__)
    return DynamicPairError(
        f"the model or guide cannot be recorded ({first_line(error)}{line}); "
        "expected a static pair: use pyro.infer.SVI"
    )


def find_line(trace: TracebackType | None = None) -> str:
    """Returns the line of the user's code that is under way, in words.

    Args:
        trace: The traceback of an error; by default, what is running now.
    """
    frames: Iterator[tuple[Any, int]] = (
        traceback.walk_stack(get_frame(1))
        if trace is None
        else iter(list(traceback.walk_tb(trace))[::-1])
    )
    for frame, number in frames:
        if not is_foreign(frame.f_globals.get("__name__", "")):
            return f", in {frame.f_code.co_name}() at line {number}"
    return ""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
