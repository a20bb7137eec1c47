"""Images that stay where they are until a minibatch asks for them."""

import random
from collections.abc import Callable, Iterator
from typing import overload

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.errors import DataError

IN_MEMORY = 2**30  # bytes of images that are kept as floats in memory
# What is taken out of images that are not in memory, to be kept there.
FEW_BYTES = 2**26
FEW = 10_000  # images

Read = Callable[[np.ndarray], Tensor]


class Rows:
    """Images `(N, D)` that are read from their source as they are asked for.

    It is indexed like the tensor of all images. A tensor of indices gathers
    those images; a slice is again a `Rows`, which reads nothing yet.

    Args:
        read: Returns the images of some rows of the source, `(B, D)`, given
            their numbers.
        length: N, the number of images.
        data_dim: D, the values of an image.
        device: Where gathered images go.
    """

    def __init__(
        self,
        read: Read,
        length: int,
        data_dim: int,
        device: torch.device | str = "cpu",
    ):
        self._read = read
        self.shape, self.ndim = (length, data_dim), 2
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.shape[0]

    def gather(self, index: Tensor) -> Tensor:
        """Returns the images of some indices, `(B,)`, as `(B, D)`."""
        return self._read(index.cpu().numpy()).to(self.device)

    @overload
    def __getitem__(self, which: Tensor) -> Tensor: ...

    @overload
    def __getitem__(self, which: slice) -> "Rows": ...

    def __getitem__(self, which: Tensor | slice) -> "Tensor | Rows":
        if isinstance(which, Tensor):
            return self.gather(which)
        start, stop, step = which.indices(len(self))
        length = len(range(start, stop, step))
        return self._found(lambda rows: start + step * rows, length)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yields the images in their order, `size` at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self.gather(torch.arange(start, stop))

    def to_tensor(self) -> Tensor:
        """Returns all images, `(N, D)`."""
        return self.gather(torch.arange(len(self)))

    def to(self, device: torch.device | str) -> "Rows":
        """Returns the images for a device, where gathered ones go."""
        return Rows(self._read, *self.shape, device)

    def then(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """Returns the images with a change to those that are gathered."""
        gather = self.gather
        return Rows(
            lambda rows: change(gather(torch.from_numpy(rows))),
            *self.shape,
            self.device,
        )

    def set_apart(self, count: int, seed: int) -> tuple["Rows", Tensor]:
        """Splits some rows off, chosen by a seed; nothing is read.

        Args:
            count: The number of rows that are chosen.
            seed: The seed of the choice.

        Returns:
            The other rows, in their order, and the places of the chosen ones,
            `(count,)`, which rise.
        """
        chosen = np.array(
            sorted(random.Random(seed).sample(range(len(self)), count)),
            dtype=np.int64,
        )
        # The other row of number i comes after as many chosen ones as there
        # are with fewer than i others before them.
        others_before = chosen - np.arange(count)

        def find_other(rows: np.ndarray) -> np.ndarray:
            return rows + np.searchsorted(others_before, rows, side="right")

        others = self._found(find_other, len(self) - count)
        return others, torch.from_numpy(chosen)

    def _found(
        self, find: Callable[[np.ndarray], np.ndarray], length: int
    ) -> "Rows":
        """Returns the rows whose numbers a function finds."""
        read = self._read
        return Rows(
            lambda rows: read(find(rows)), length, self.shape[1], self.device
        )


def spread(images: Tensor | Rows, count: int) -> Tensor:
    """Returns so many images, spread evenly; all if there are no more."""
    length = len(images)
    if length <= count:
        return images.to_tensor() if isinstance(images, Rows) else images
    index = torch.linspace(0, length - 1, count, dtype=torch.float64).long()
    return images[index.to(images.device)]


def leave_out(labels: Tensor | None, places: Tensor) -> Tensor | None:
    """Returns labels without those at some places, if there are labels."""
    if labels is None:
        return None
    is_kept = torch.ones(len(labels), dtype=torch.bool)
    is_kept[places] = False
    return labels[is_kept]


def settle(images: Tensor | Rows) -> Tensor | Rows:
    """Returns images as a tensor in memory if they are few enough."""
    if isinstance(images, Rows) and fits(*images.shape):
        return images.to_tensor()
    return images


def count_few(images: Tensor | Rows) -> int:
    """Returns how many images are few enough to be taken into memory."""
    if not isinstance(images, Rows):
        return len(images)
    itemsize = torch.get_default_dtype().itemsize
    return max(1, min(FEW, FEW_BYTES // (itemsize * images.shape[1])))


def fits(length: int, data_dim: int) -> bool:
    """Returns whether images are so few that they are kept in memory."""
    itemsize = torch.get_default_dtype().itemsize
    return length * data_dim * itemsize <= IN_MEMORY


def check_in_memory(images: Tensor | Rows, wish: str) -> Tensor:
    """Returns images that are in memory.

    Raises:
        DataError: If they are read as they are asked for, which does not go
            with the wish.
    """
    if isinstance(images, Rows):
        raise DataError(
            f"{wish} needs all {len(images)} images in memory, and these are "
            "read from their file as they are asked for; expected fewer: give "
            "a limit"
        )
    return images
