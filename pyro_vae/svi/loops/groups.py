"""Loops over one shape that run as one."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx

from pyro_vae.svi.loops.layout import Access, Shape, skip_short
from pyro_vae.svi.loops.loop import Loop


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


def list_reads(loop: Loop) -> Iterator[Access]:
    """Yields what a loop reads from tensors."""
    for operand in loop.operands:
        if isinstance(operand.source, Access):
            yield operand.source
