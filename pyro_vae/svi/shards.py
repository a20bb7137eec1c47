"""The processes of one fit: each takes its rows of every minibatch.

The loss of a minibatch and its gradients are sums over its images, so that
what the processes have computed is summed, in one buffer.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae.svi.draws import (
    Part,
    Place,
    find_places,
    keeping_rows,
    list_draws,
)


class LostProcessError(ConnectionError):
    """Another process of the fit has ended, so that this one cannot go on."""


class Shards:
    r"""The processes that share each minibatch, and this one's part of it.

    With W processes, process r has the rows from :math:`\lfloor r B / W
    \rfloor` up to :math:`\lfloor (r + 1) B / W \rfloor` of a minibatch of B.

    Args:
        group: A process group of `torch.distributed`; None for this process
            alone, which sums nothing.

    Attributes:
        rank: The number of this process, from 0 on.
        world_size: W, the number of processes.
        part: This process's rows of the minibatch that was begun last.
        wants_stop: Whether this process asks all of them to stop; the next
            step tells them.
        is_stopping: Whether one of them has asked before the last step; it is
            the same in all.
    """

    def __init__(self, group: Any = None):
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)
        self.part = Part(0, 0, 0)
        self.wants_stop = self.is_stopping = False
        self._places: dict[Hashable, list[Place]] = {}

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    def begin(self, size: int) -> slice:
        """Begins a minibatch, and returns this process's rows of it.

        Args:
            size: B, the number of images in the whole minibatch.
        """
        start = self.rank * size // self.world_size
        stop = (self.rank + 1) * size // self.world_size
        is_empty = start == stop
        if is_empty:
            start = min(start, size - 1)
            stop = start + 1
        self.part = Part(size, start, stop, is_empty)
        return slice(start, stop)

    def share(self, num_data: int) -> int | float:
        r"""Returns how many images of the data set this process's rows are.

        .. math:: N b / B

        A plate of this size over b rows scales them by N / B.

        Args:
            num_data: N, the number of images in the data set.
        """
        if self.is_alone:
            return num_data
        return num_data * self.part.count / self.part.size

    @contextmanager
    def drawing(
        self, key: Hashable, run: Callable[[int], Any]
    ) -> Iterator[None]:
        """Draws, within a block, the rows of what one process would draw.

        The random states are then those of one process.

        Args:
            key: The name of the block.
            run: Does its work on another number of rows, and leaves no trace
                but in torch's random states.

        Raises:
            ValueError: If something is drawn that cannot be split.
        """
        if self.is_alone:
            yield
            return
        if key not in self._places:
            self._places[key] = self._learn(run)
        with keeping_rows(self.part, self._places[key]):
            yield

    def _learn(self, run: Callable[[int], Any]) -> list[Place]:
        """Returns where the rows are in what is drawn, or fails in all."""
        count = self.part.count
        # With fewer rows, since a share of the data has enough for them.
        other = count - 1 if count > 1 else 2
        said, places = None, list[Place]()
        try:
            first, second = (
                list_draws(partial(run, number)) for number in (count, other)
            )
            places = find_places(first, second)
        except ValueError as error:
            said = str(error)
        said = self.first_of(said)
        if said is not None:
            raise ValueError(said)
        return places

    def sum(
        self, tensors: Sequence[Tensor], means: Sequence[Tensor] = ()
    ) -> tuple[list[Tensor], list[Tensor]]:
        r"""Sums tensors over the processes, all in one buffer.

        Args:
            tensors: Of the same shapes in every process, on one device.
            means: Tensors that are means over a process's rows.

        Returns:
            The sums of the tensors, and the means over the whole minibatch,
            :math:`\sum_r b_r m_r / B`.

        Raises:
            LostProcessError: If another process has ended.
        """
        given = [*tensors, *means]
        dtype = reduce(torch.promote_types, [tensor.dtype for tensor in given])
        weight = 0 if self.part.is_empty else self.part.count / self.part.size
        flat = torch.cat(
            [
                *(tensor.reshape(-1).to(dtype) for tensor in tensors),
                *(mean.reshape(-1).to(dtype) * weight for mean in means),
                given[0].new_tensor([0.0], dtype=dtype),
            ]
        )
        if self.part.is_empty:
            flat.zero_()  # its row is another's, whatever came of it here
        flat[-1] = float(self.wants_stop)
        with _losses_told():
            dist.all_reduce(flat, group=self.group)
        self.is_stopping = bool(flat[-1] > 0)
        parts = flat[:-1].split([tensor.numel() for tensor in given])
        sums = [
            part.view(tensor.shape).to(tensor.dtype)
            for part, tensor in zip(parts, given, strict=True)
        ]
        return sums[: len(tensors)], sums[len(tensors) :]

    def wait(self) -> None:
        """Waits until every process has come to such a place."""
        self.agree(None)

    def ask_all(self, wants_stop: bool) -> bool:
        """Returns whether some process asks to stop, and notes it."""
        self.is_stopping = bool(self.first_of(wants_stop or None))
        return self.is_stopping

    def agree(self, value: Any) -> Any:
        """Returns the value of the first process."""
        if self.is_alone:
            return value
        values = [value]
        with _losses_told():
            dist.broadcast_object_list(values, group=self.group, group_src=0)
        return values[0]

    def first_of(self, value: Any) -> Any:
        """Returns the value of the first process that has one, or None."""
        if self.is_alone:
            return value
        values: list[Any] = [None] * self.world_size
        with _losses_told():
            dist.all_gather_object(values, value, group=self.group)
        return next((v for v in values if v is not None), None)


@contextmanager
def _losses_told() -> Iterator[None]:
    """Says what a failed collective means.

    Raises:
        LostProcessError: In the place of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this fit has ended, or does not answer; what "
            "was saved before is whole"
        ) from error


def resize_rows(value: Any, count: int, number: int) -> Any:
    """Returns arguments with another number of rows.

    Args:
        value: A tensor, whose rows are repeated or left out if it has `count`
            of them; a number that is no integer, such as a share of the data
            set, which grows with them; a tuple, list or dictionary of such; or
            anything else.
        count: The number of rows.
        number: The number that they are to have.
    """
    if isinstance(value, Tensor):
        if value.dim() == 0 or len(value) != count:
            return value
        return value[torch.arange(number, device=value.device) % count]
    if isinstance(value, float):
        return value * number / count
    if isinstance(value, dict):
        return {k: resize_rows(v, count, number) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(resize_rows(v, count, number) for v in value)
    return value
