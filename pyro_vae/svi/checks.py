"""The values that a recorded graph relies on, and compares at every call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor, fx

from pyro_vae.svi.compat import writes_in_place
from pyro_vae.svi.draws import is_random
from pyro_vae.svi.equality import are_equal
from pyro_vae.svi.refusals import ADVICE, DynamicPairError


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
            f"{ADVICE}"
        )

    def refuse_change(self, value: Tensor) -> NoReturn:
        """Raises DynamicPairError: the value is another one now."""
        then, now = (
            f"{v.item():g}" if v.numel() == 1 else "other numbers"
            for v in (self.value, value)
        )
        raise DynamicPairError(
            f"the model or guide asks for a tensor's value, by {self.way}: it "
            f"was {then} when the step was recorded, and is {now}; expected "
            f"the same at every step: {ADVICE}"
        )


class Checks:
    """Computes what Python has read anew, before a graph runs, and compares.

    Args:
        graph: Takes the inputs of the graph, and returns the tensors.
        reads: What they were, in the same order.
    """

    def __init__(self, graph: fx.GraphModule, reads: Sequence[Read]):
        self._graph, self._reads = graph, reads

    @property
    def has_any(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._reads)

    def find(self, inputs: Sequence[Tensor]) -> tuple[Read, Tensor] | None:
        """Returns the first value that is another one now, if there is one."""
        if self._reads:
            values = self._graph(*inputs)
            for read, value in zip(self._reads, values, strict=True):
                if not are_equal(value, read.value):
                    return read, value
        return None

    def __call__(self, inputs: Sequence[Tensor]) -> None:
        """Raises DynamicPairError if a value is another one."""
        changed = self.find(inputs)
        if changed is not None:
            read, value = changed
            read.refuse_change(value)


def split_checks(
    graph: fx.GraphModule,
    reads: Sequence[Read],
    inputs: Sequence[Tensor],
) -> Checks:
    """Takes the tensors that Python has read out of a record's results.

    The record's code is still to be written anew.

    Args:
        graph: A record, whose last results they are.
        reads: What was read.
        inputs: Example inputs.

    Returns:
        What compares the values.

    Raises:
        DynamicPairError: If a value depends on a parameter, on chance, or on
            a tensor that is changed in place.
    """
    asked, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    if not reads:
        return Checks(fx.GraphModule({}, asked), [])
    asked.graph_copy(graph.graph, copies)
    (output,) = graph.graph.find_nodes(op="output")
    results = list(output.args[0])
    count = len(results) - len(reads)
    output.args = (results[:count],)
    asked_for = [copies[node] for node in results[count:]]
    chosen = dict(zip(asked_for, reads, strict=True))
    placeholders = asked.find_nodes(op="placeholder")
    given = zip(placeholders, inputs, strict=True)
    parameters = {node for node, tensor in given if tensor.requires_grad}
    _refuse_unknown(asked, chosen, parameters)
    asked.output(tuple(chosen))
    for node in reversed(asked.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            asked.erase_node(node)
    return Checks(fx.GraphModule({}, asked), list(chosen.values()))


def _refuse_unknown(
    graph: fx.Graph, reads: Mapping[fx.Node, Read], unknown: set[fx.Node]
) -> None:
    """Refuses a value that is not known before a step is computed."""
    for node in graph.nodes:
        if (
            is_random(node.target)
            or writes_in_place(node)
            or not unknown.isdisjoint(node.all_input_nodes)
        ):
            unknown.add(node)
    for node, read in reads.items():
        if node in unknown:
            read.refuse()
