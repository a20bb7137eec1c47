"""Images in memory, split into a training and a test set."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.data.draws import draw_once

SPLIT_SEED = 0  # of the 80/20 split where a data set has no test set
# Of the images drawn once and for all.
TRAIN_SEED, TEST_SEED, VALIDATION_SEED = 1, 2, 3


class DataError(ValueError):
    """A data set is damaged or not what it should be."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split into a training and a test set.

    Attributes:
        name: The data set's name, or its file's.
        train: Training images, `(N, D)`, floats in [0, 1].
        test: Test images, `(M, D)`.
        train_labels: `(N,)`, integers; None where there are none.
        test_labels: `(M,)`.
        image_shape: `(height, width)` or `(height, width, channels)`; its
            product is D.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None
    test_labels: Tensor | None
    image_shape: tuple[int, ...]

    @property
    def data_dim(self) -> int:
        """D, the number of pixels of an image."""
        return self.train.shape[1]

    def to(self, device: torch.device | str) -> "Dataset":
        """Returns the data set with its images on a device."""
        return replace(
            self, train=self.train.to(device), test=self.test.to(device)
        )

    def first(self, limit: int | None) -> "Dataset":
        """Returns the first `limit` images of either set, or all if None."""
        return replace(
            self,
            train=self.train[:limit],
            test=self.test[:limit],
            train_labels=_first(self.train_labels, limit),
            test_labels=_first(self.test_labels, limit),
        )

    def hold_out(self, fraction: float) -> tuple["Dataset", Tensor]:
        """Splits validation images off the training set, by a fixed seed.

        Args:
            fraction: The part of the training images, between 0 and 1, of
                which at least one image is held out and one is kept.

        Returns:
            The data set without them, and the validation images.

        Raises:
            DataError: If there is one training image only.
        """
        size = len(self.train)
        if size < 2:
            raise DataError(
                f"there are {size} training images; expected at least 2 to "
                "hold some out for validation"
            )
        count = min(max(round(fraction * size), 1), size - 1)
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        order = torch.randperm(size, generator=generator)
        kept = order[count:].sort().values
        labels = self.train_labels
        rest = replace(
            self,
            train=self.train[kept],
            train_labels=None if labels is None else labels[kept],
        )
        return rest, self.train[order[:count]]

    def binarize(self, how: str) -> "Dataset":
        """Returns the data set with binary images, drawn from the grey ones.

        Each draw has a fixed seed of its own, so that every run is trained
        and tested on the same images. Binary images stay what they are.

        Args:
            how: `none`, nothing is drawn; `static`, either set once; `dynamic`,
                the test set once: the training set is for `draw_binary` to
                draw anew in each epoch.
        """
        if how == "none":
            return self
        train = self.train
        if how == "static":
            train = draw_once(train, TRAIN_SEED)
        return replace(self, train=train, test=draw_once(self.test, TEST_SEED))

    @property
    def is_binary(self) -> bool:
        """Whether every pixel of the test set is 0 or 1."""
        return bool(((self.test == 0) | (self.test == 1)).all())

    def describe(self) -> dict:
        """Returns what a run's files say of the data, JSON-able."""
        return {
            "name": self.name,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "train_mean": self.train.mean(dtype=torch.float64).item(),
            "test_mean": self.test.mean(dtype=torch.float64).item(),
            "image_shape": list(self.image_shape),
        }


def split(
    name: str,
    images: Tensor,
    labels: Tensor | None,
    image_shape: tuple[int, ...],
) -> Dataset:
    """Splits images 80/20 into a training and a test set, by a fixed seed."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(images), generator=generator)
    train, test = order.split([len(order) - len(order) // 5, len(order) // 5])
    return Dataset(
        name,
        images[train],
        images[test],
        None if labels is None else labels[train],
        None if labels is None else labels[test],
        image_shape,
    )


def to_unit_interval(images: Tensor) -> Tensor:
    """Turns bytes `(N, ...)` into floats `(N, D)`, 255 into 1."""
    return images.flatten(1).to(torch.get_default_dtype()).div_(255)


def _first(labels: Tensor | None, limit: int | None) -> Tensor | None:
    return None if labels is None else labels[:limit]
