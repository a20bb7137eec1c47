"""Python's view of tensors' values while a graph is recorded.

A graph would keep the number that Python has read from a tensor, and the shape
that a result had because of a value. So the tensor that was read becomes a
result of the graph, to be compared at every call, unless it is constant.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from sys import _getframe as get_frame
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pyro_vae.svi.callers import is_asked_by_user, is_asserted
from pyro_vae.svi.checks import Read
from pyro_vae.svi.compat import (
    is_shortcut,
    is_validation,
    unrecorded,
)
from pyro_vae.svi.indices import find_axis, is_mask, is_number, is_tuple
from pyro_vae.svi.places import is_foreign
from pyro_vae.svi.refusals import find_line

_READING = {
    Tensor.__bool__: "bool(tensor)",
    Tensor.__int__: "int(tensor)",
    Tensor.__float__: "float(tensor)",
    Tensor.__index__: "a tensor as a size or an index",
    Tensor.item: "tensor.item()",
    Tensor.tolist: "tensor.tolist()",
    Tensor.numpy: "tensor.numpy()",
    Tensor.__array__: "numpy.asarray(tensor)",
}
# Functions that copy numbers, and those of tensors in lists, without a record.
_COPYING = (torch.tensor, torch.as_tensor, torch.asarray)


class _Masked(NamedTuple):
    """What was taken by a mask, and that the mask is read for its shape."""

    taken: Tensor  # which keeps its id
    source: Tensor
    mask: Tensor
    read: Read


class Recording(TorchFunctionMode):
    """Intercepts what Python reads of a tensor, which a graph would freeze.

    `item` stays a tensor: Pyro's losses and a user's arithmetic go on with
    it, cut off from autograd as a number would be. What is asked in order to
    validate or to assert becomes a flag, which the graph computes. What else
    is asked for is noted.

    Args:
        numbers: Whether `item` is asked for a number, too, and does not stay
            a tensor.

    Attributes:
        reads: What was asked for.
    """

    def __init__(self, numbers: bool = False) -> None:
        super().__init__()
        self._numbers = numbers
        self.reads: list[Read] = []
        self._flag: Tensor | None = None
        self._masked: dict[int, _Masked] = {}  # by the ids of what was taken

    def __torch_function__(
        self,
        function: Callable,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._masked and function is not Tensor.__setitem__:
            self.note_masks((*args, *kwargs.values()))
        if function is Tensor.item and not (
            self._numbers and is_asked_by_user()
        ):
            return _as_number(args[0].detach())
        if function is Tensor.__bool__:
            if is_shortcut(get_frame(1)):
                return True
            if is_validation(get_frame(1)) or is_asserted():
                return self._assert(args[0])
        if function in _READING:
            return self.note(
                args[0],
                _READING[function],
                lambda value: function(value, *args[1:], **kwargs),
            )
        if function is Tensor.__getitem__:
            return self._take(*args)
        if function is Tensor.__setitem__:
            return self._put(*args)
        if function in (Tensor.masked_select, torch.masked_select):
            return self._take(*torch.broadcast_tensors(*args, *kwargs.values()))
        if function in _COPYING and args and isinstance(args[0], list | tuple):
            return self._copy(function, args[0], kwargs)
        if function is F.one_hot:
            return self._one_hot(*args, **kwargs)
        return function(*args, **kwargs)

    def _assert(self, tensor: Tensor) -> bool:
        """Returns a truth value that Python relies on, and notes that."""
        tensor = tensor.detach().reshape(())
        with unrecorded():
            is_true = bool(tensor)
        flag = tensor.bool() if is_true else ~tensor.bool()
        if self._flag is not None:
            flag = self._flag & flag
        self._flag = flag
        return is_true

    def list_flags(self) -> list[Tensor]:
        """Returns whether all is true that was relied upon, `()`, if any.

        None on CUDA, where no step waits for the device.
        """
        if self._flag is None or self._flag.is_cuda:
            return []
        return [self._flag]

    def note(
        self, tensor: Tensor, way: str, find: Callable[[Tensor], Any]
    ) -> Any:
        """Notes that a value is read, and returns what is found in it.

        Args:
            tensor: The tensor.
            way: How it is read.
            find: Takes the tensor, cut off from the record.
        """
        tensor = tensor.detach()
        with unrecorded():
            value = tensor.clone()
            found = find(value)
        self.reads.append(Read(tensor, value, way + find_line()))
        return found

    def _take(self, tensor: Tensor, index: Any) -> Tensor:
        """Returns `tensor[index]`, with a static shape.

        torch would read the value of an index that is a single number.
        """
        parts = list(index) if is_tuple(index) else [index]
        for place, part in enumerate(parts):
            if is_number(part):
                dim = find_axis(tensor, parts, place)
                size = tensor.shape[dim]
                entry = torch.where(part < 0, part + size, part).long()
                tensor = tensor.index_select(dim, entry.reshape(1))
                parts[place] = 0
        taken = tensor[self._find_places(parts)]
        if is_mask(index) and index.dim():
            read = self.reads.pop()
            self._masked[id(taken)] = _Masked(taken, tensor, index, read)
        return taken

    def _put(self, tensor: Tensor, index: Any, value: Any) -> None:
        """Does `tensor[index] = value`, with static shapes."""
        masked = self._masked.get(id(value))
        if masked and masked.mask is index:  # x[mask] = y[mask]
            tensor.copy_(torch.where(index, masked.source, tensor))
        elif isinstance(value, Tensor) and value.dim():
            self.note_masks([value])
            parts = list(index) if is_tuple(index) else [index]
            tensor[self._find_places(parts)] = value
        elif is_mask(index):
            extra = (1,) * (tensor.dim() - index.dim())
            tensor.masked_fill_(
                index.bool().reshape(index.shape + extra), value
            )
        else:
            tensor[index] = value

    def note_masks(self, used: Sequence[Any]) -> None:
        """Notes the masks of what is used, whose shapes depend on them."""
        for part in used:
            if isinstance(part, list | tuple):
                self.note_masks(part)
            elif masked := self._masked.pop(id(part), None):
                self.reads.append(masked.read)

    def _find_places(self, parts: Sequence[Any]) -> tuple[Any, ...]:
        """Returns an index with the places where its masks are true."""
        found: list[Any] = []
        for part in parts:
            if is_mask(part) and part.dim():
                found += self.note(
                    part, "x[mask]", lambda mask: mask.nonzero(as_tuple=True)
                )
            else:
                found.append(part)
        return tuple(found)

    def _copy(
        self, function: Callable, entries: Sequence[Any], options: Any
    ) -> Tensor:
        """Returns `torch.tensor([x, y])`, which would read the entries."""
        if not any(isinstance(part, Tensor) for part in _flatten(entries)):
            return function(entries, **options)
        with unrecorded():
            like = function(_detach(entries), **options)
        parts = [
            part.detach().reshape(()) if isinstance(part, Tensor) else part
            for part in _flatten(entries)
        ]
        made = [torch.as_tensor(part).to(like) for part in parts]
        return torch.stack(made).reshape(like.shape)

    def _one_hot(self, tensor: Tensor, num_classes: int = -1) -> Tensor:
        """Returns one-hot vectors as torch's function does."""
        if num_classes < 0:
            way = "one_hot without a number of classes"
            num_classes = self.note(tensor.max(), way, int) + 1
        with unrecorded():
            F.one_hot(tensor.detach().clone(), num_classes)  # which may raise
        self._assert(((tensor >= 0) & (tensor < num_classes)).all())
        classes = torch.arange(num_classes, device=tensor.device)
        return (tensor.unsqueeze(-1) == classes).to(torch.int64)


def _as_number(tensor: Tensor) -> Tensor:
    """Returns a value in a dtype that counts, and rounds, as a number would."""
    if tensor.is_complex() or tensor.dtype == torch.float64:
        return tensor
    if tensor.is_floating_point():
        return tensor.float()
    return tensor.long()


@contextmanager
def refusing_keys() -> Iterator[None]:
    """Refuses, within a block, what stands for a number as a key.

    A tensor is found in a dictionary or a set by its identity.

    Raises:
        TypeError: If the user's code looks one up.
    """
    identity = Tensor.__hash__

    def find_hash(tensor: Tensor) -> int:
        is_number = not tensor.dim() and not tensor.requires_grad
        asking = get_frame(1).f_globals.get("__name__", "")
        if is_number and not is_foreign(asking):
            raise TypeError("a number from a tensor is looked up as a key")
        return identity(tensor)

    with mock.patch.object(Tensor, "__hash__", find_hash):
        yield


def _flatten(entries: Sequence[Any]) -> Iterator[Any]:
    """Yields the numbers and tensors of nested lists."""
    for entry in entries:
        if isinstance(entry, list | tuple):
            yield from _flatten(entry)
        elif isinstance(entry, Tensor) and entry.dim():
            yield from _flatten(list(entry))
        else:
            yield entry


def _detach(entries: Any) -> Any:
    """Returns nested lists whose tensors are cut off from autograd."""
    if isinstance(entries, Tensor):
        return entries.detach()
    if isinstance(entries, list | tuple):
        return [_detach(entry) for entry in entries]
    return entries
