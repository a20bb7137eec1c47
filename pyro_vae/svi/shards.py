"""The processes of one fit: each takes its rows of every minibatch.

The loss of a minibatch and its gradients are sums over its images, so that
what the processes have computed is summed, in one buffer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae.svi.draws import (
    Place,
    Rows,
    find_places,
    list_draws,
    sharing,
)


class LostProcessError(RuntimeError):
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
        rows: This process's rows of the minibatch that was begun last.
        wants_stop: Whether this process asks all of them to stop; the next
            step tells them.
    """

    def __init__(self, group: Any = None):
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)
        self.rows = Rows(0, 0, 0)
        self.wants_stop = False
        self._stops: Tensor | None = None
        self._is_sharing = False
        self._places: dict[Any, list[Place]] = {}

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
        self.rows = Rows(size, start, stop, is_empty)
        return slice(start, stop)

    def share(self, num_data: int) -> int | float:
        r"""Returns how many images of the data set the rows stand for.

        .. math:: N b / B

        A plate of this size over b rows scales them by N / B.

        Args:
            num_data: N, the number of images in the data set.
        """
        if self.is_alone:
            return num_data
        return num_data * self.rows.count / self.rows.size

    @contextmanager
    def sharing(self, key: tuple, run: Callable[[int], Any]) -> Iterator[None]:
        """Makes a block's work on the rows a part of that on the minibatch.

        What it draws are the rows of what one process would draw, and the
        random states are then those of one process.

        Args:
            key: What the block's draws depend on beside the number of rows.
            run: Does the block's work on another number of rows, and leaves no
                trace.

        Raises:
            ValueError: If something is drawn that cannot be split.
        """
        if self.is_alone:
            yield
            return
        key = (self.rows.size, *key)
        if key not in self._places:
            self._places[key] = self._learn(run)
        self._is_sharing = True
        try:
            with sharing(self.rows, self._places[key]):
                yield
        finally:
            self._is_sharing = False

    def _learn(self, run: Callable[[int], Any]) -> list[Place]:
        count = self.rows.count
        # With fewer rows, since a share of the data set has enough for them.
        other = count - 1 if count > 1 else 2
        first, draws, others = (
            list_draws(partial(run, number)) for number in (count, count, other)
        )
        if first != draws:
            raise ValueError(
                "the first run of the model and the guide draws other numbers "
                "than the second, such as initial parameters; expected them "
                "made before: call the guide once, in every process after the "
                "same torch.manual_seed"
            )
        return find_places(draws, others)

    def sum(
        self, tensors: Sequence[Tensor], flags: Sequence[float] = ()
    ) -> tuple[list[Tensor], Tensor]:
        """Sums tensors over the processes, all in one buffer.

        Args:
            tensors: Of the same shapes in every process, on one device.
            flags: Numbers that count in a process without rows, too.

        Returns:
            The sums of the tensors, and those of the flags, `(F,)`.

        Raises:
            LostProcessError: If another process has ended.
        """
        kinds = [t.dtype for t in tensors if t.is_floating_point()]
        dtype = torch.float32
        for kind in kinds:
            dtype = torch.promote_types(dtype, kind)
        flat = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])
        if self.rows.is_empty:
            flat.zero_()
        flat = torch.cat([flat, flat.new_tensor(flags)])
        self._reduce(flat)
        sizes = [tensor.numel() for tensor in tensors]
        *parts, sums = flat.split([*sizes, len(flags)])
        pairs = zip(parts, tensors, strict=True)
        return [p.view(t.shape).to(t.dtype) for p, t in pairs], sums

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns tensors whose rows are those of the processes.

        Args:
            tensors: Each `(B, ...)`; the rows that are another process's are
                not read.
        """
        mine = slice(self.rows.start, self.rows.stop)
        kept = [torch.zeros_like(tensor) for tensor in tensors]
        for to, tensor in zip(kept, tensors, strict=True):
            to[mine] = tensor[mine]
        return self.sum(kept)[0]

    def total(self, value: float) -> float:
        """Returns the sum of a number over the processes with rows."""
        if self.is_alone or not self._is_sharing:
            return value
        (total,), _ = self.sum([torch.tensor([value], dtype=torch.float64)])
        return total.item()

    def pool(self, mean: Tensor) -> Tensor:
        """Returns the mean over the whole minibatch of a mean over the rows.

        Its gradient is that of the rows' own mean: the processes' losses each
        have their rows' part of what depends on the mean, so that the sum of
        their gradients is that of the whole.
        """
        if self.is_alone or not self._is_sharing:
            return mean
        part = mean.detach() * (self.rows.count / self.rows.size)
        (whole,), _ = self.sum([part])
        return mean + (whole - mean.detach())

    def keep_flags(self, flags: Tensor) -> None:
        """Keeps the sums of the flags that went with a step's.

        Raises:
            ValueError: If some processes step eagerly and others do not.
        """
        compiled, self._stops = flags
        if not flags.is_cuda and 0 < compiled < self.world_size:
            raise ValueError(
                "some processes step eagerly, since their step could not be "
                "compiled, and the others compiled; expected the same in all: "
                "use engine=eager"
            )

    def is_stop_wanted(self) -> bool:
        """Returns whether a process has asked to stop before the last step.

        It is the same in all processes. On CUDA it waits for the device.
        """
        return self._stops is not None and bool(self._stops > 0)

    def any(self, flag: bool) -> bool:
        """Returns whether a flag is true in some process."""
        if self.is_alone:
            return flag
        value = torch.tensor([float(flag)])
        self._reduce(value)
        return bool(value.item())

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

    def _reduce(self, flat: Tensor) -> None:
        with _losses_told():
            dist.all_reduce(flat, group=self.group)


@contextmanager
def _losses_told() -> Iterator[None]:
    """Says what a failed collective means.

    Raises:
        LostProcessError: In the place of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostProcessError(
            f"another process of this fit has ended ({reason})"
        ) from None


def resize_rows(value: Any, count: int, number: int) -> Any:
    """Returns arguments with another number of rows.

    Args:
        value: A tensor, whose rows are repeated or left out if it has `count`
            of them; a tuple, list or dictionary of such; or anything else.
        count: The number of rows.
        number: The number that they are to have.
    """
    if isinstance(value, Tensor):
        if value.dim() == 0 or len(value) != count:
            return value
        return value[torch.arange(number, device=value.device) % count]
    if isinstance(value, dict):
        return {k: resize_rows(v, count, number) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(resize_rows(v, count, number) for v in value)
    return value
