"""The processes of one fit: each takes its rows of every minibatch.

The loss of a minibatch and its gradients are sums over its images, so that
what the processes have computed is summed, in one buffer.
"""

import pickle
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
        has_failure: Whether one had nothing to add to the last sum.
        kept: What was kept beside each block that was learned, by its name.
    """

    def __init__(self, group: Any = None):
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)
        self.part = Part(0, 0, 0)
        self.wants_stop = self.is_stopping = self.has_failure = False
        self._places: dict[Hashable, list[Place]] = {}
        self.kept: dict[Hashable, Any] = {}

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
        return self.part.rows

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

    def forget(self) -> None:
        """Forgets what was learned of blocks, as those of an earlier fit."""
        self._places.clear()
        self.kept.clear()

    def knows(self, key: Hashable) -> bool:
        """Returns whether `learn` was called for a block."""
        return key in self._places

    def learn(
        self, key: Hashable, run: Callable[[int], Any], kept: Any = None
    ) -> None:
        """Learns where the rows are in what a block draws.

        Args:
            key: The name of the block.
            run: Does its work on another number of rows, and leaves no trace
                but in torch's random states.
            kept: What is to be kept beside it.

        Raises:
            ValueError: If something is drawn that cannot be split.
        """
        count, other = self.two_counts()
        first = list_draws(partial(run, count))
        try:
            second = list_draws(partial(run, other))
        except (RuntimeError, IndexError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the step cannot be taken with {other} rows in the place of "
                f"{count} ({reason}); expected tensors whose first dimension "
                "is that of the rows, if it has their number: fit in one "
                "process"
            ) from error
        self._places[key] = find_places(first, second)
        self.kept[key] = kept

    @contextmanager
    def drawing(
        self,
        key: Hashable,
        run: Callable[[int], Any] | None = None,
    ) -> Iterator[None]:
        """Draws, within a block, the rows of what one process would draw.

        The random states are then those of one process.

        Args:
            key: The name of the block.
            run: What `learn` takes, where it was not called for the block.

        Raises:
            ValueError: If the block draws something else than then.
        """
        if self.is_alone:
            yield
            return
        if run is not None and not self.knows(key):
            self.learn(key, run)
        with keeping_rows(self.part, self._places[key]):
            yield

    def two_counts(self) -> tuple[int, int]:
        """Returns the number of this process's rows, and another one."""
        count = self.part.count
        # Fewer, since a share of the data has enough for them.
        return count, count - 1 if count > 1 else 2

    def sum(
        self,
        tensors: Sequence[Tensor],
        means: Sequence[Tensor] = (),
        has_failed: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        r"""Sums tensors over the processes, all in one buffer.

        Args:
            tensors: Of the same shapes in every process, on one device.
            means: Tensors that are means over a process's rows.
            has_failed: Whether this process has nothing to add, for an error.

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
                given[0].new_zeros(2, dtype=dtype),
            ]
        )
        if self.part.is_empty:
            flat.zero_()  # its row is another's, whatever came of it here
        flat[-2], flat[-1] = float(has_failed), float(self.wants_stop)
        with _losses_told():
            dist.all_reduce(flat, group=self.group)
        self.has_failure, self.is_stopping = (flat[-2:] > 0).tolist()
        parts = flat[:-2].split([tensor.numel() for tensor in given])
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

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, in their order."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _losses_told():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def first_of(self, value: Any) -> Any:
        """Returns the value of the first process that has one, or None."""
        values = self.gather(value)
        return next((v for v in values if v is not None), None)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Fails in all processes if a block, which none waits in, fails in one.

        Raises:
            Exception: The error of the first process that has one.
        """
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        self.fail_together(failure)

    def fail_together(self, failure: Exception | None) -> None:
        """Raises the error of the first process that has one.

        Args:
            failure: This process's own.
        """
        if self.is_alone and failure is not None:
            raise failure
        first = self.first_of(failure and _sendable(failure))
        if first is not None:
            raise first from failure


def _sendable(error: Exception) -> Exception:
    """Returns an error that another process can be told."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


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
