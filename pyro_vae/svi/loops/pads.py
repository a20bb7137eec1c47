"""Gradients of parts: tensors of zeros, but for a part of them.

A loop over time leaves one for each step, as large as all steps together, and
their sum. Here a sum of several is one tensor, to whose parts the others' are
added: as much work as there are numbers that are not zero.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.loops.copies import find_root
from pyro_vae.svi.loops.layout import list_written
from pyro_vae.svi.loops.writer import Writer, in_order, read


class Part(NamedTuple):
    """What is not zero.

    Attributes:
        given: The node of its values.
        strides: Where they lie in the whole.
        start: The first one's place there.
    """

    given: fx.Node
    strides: tuple[int, ...]
    start: int


@dataclass
class Pad:
    """A tensor of zeros, but for some parts.

    Attributes:
        whole: Its node.
        parts: The parts, which may overlap: they are added.
        own: The nodes that fill it.
    """

    whole: fx.Node
    parts: list[Part]
    own: list[fx.Node]

    def is_only_for(self, node: fx.Node) -> bool:
        """Returns whether nothing but a node uses it."""
        return self.whole.users.keys() - set(self.own) == {node}


class Pads:
    """The gradients of parts in a graph.

    Args:
        write: Inserts nodes in the graph.
    """

    def __init__(self, write: Writer):
        self.write = write
        self._pads: dict[fx.Node, Pad] = {}
        self._changed = {
            find_root(argument)
            for node in write.graph.nodes
            for argument in list_written(node)
        }

    def select(
        self, node: fx.Node, grad: Any, sizes: Any, dim: int, index: int
    ) -> fx.Node:
        """Rewrites the gradient of one row."""
        dim %= len(sizes)
        strides = read(node).strides
        start = index % sizes[dim] * strides[dim]
        part = Part(grad, strides[:dim] + strides[dim + 1 :], start)
        return self._fill(node, part)

    def slice(
        self,
        node: fx.Node,
        grad: Any,
        sizes: Any,
        dim: int,
        start: int,
        end: int,
        step: int,
    ) -> fx.Node:
        """Rewrites the gradient of some rows."""
        known = self._pads.get(grad)
        if read(grad).shape == read(node).shape:  # of all
            if known is not None and known.is_only_for(node):
                return known.whole
            like = in_order(read(node), read(node).shape)
            return self.write.call(aten.clone.default, like, grad)
        dim %= len(sizes)
        strides = list(read(node).strides)
        first = slice(start, end, step).indices(sizes[dim])[0] * strides[dim]
        strides[dim] *= step
        return self._fill(node, Part(grad, tuple(strides), first))

    def add(self, node: fx.Node, left: Any, right: Any) -> fx.Node | None:
        """Adds one's parts to the other, where nothing else uses them."""
        one, other = self._pads.get(left), self._pads.get(right)
        if one is None or other is None or one is other:
            return None
        if not (one.is_only_for(node) and other.is_only_for(node)):
            return None
        if read(one.whole) != read(other.whole):
            return None
        if len(one.parts) < len(other.parts):
            one, other = other, one
        # Their values are read later than they would have been.
        if any(find_root(p.given) in self._changed for p in other.parts):
            return None
        for part in other.parts:
            self._write(one, part, aten.add_.Tensor)
        for place, argument in enumerate(node.args):
            if argument is other.whole:  # which can go now
                node.update_arg(place, one.whole)
        for each in (*reversed(other.own), other.whole):
            self.write.graph.erase_node(each)
        del self._pads[other.whole]
        return one.whole

    def _fill(self, node: fx.Node, part: Part) -> fx.Node:
        whole = self.write.make(read(node))
        zero = self.write.change(aten.zero_.default, whole)
        pad = self._pads[whole] = Pad(whole, [], [zero])
        self._write(pad, part, aten.copy_.default)
        return whole

    def _write(self, pad: Pad, part: Part, target: Any) -> None:
        """Copies, or adds, to a part."""
        shape = read(part.given).shape
        view = self.write.view(pad.whole, shape, part.strides, part.start)
        changed = self.write.change(target, view, part.given)
        pad.own += [view, changed]
        pad.parts.append(part)
