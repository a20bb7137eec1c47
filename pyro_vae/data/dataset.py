"""Images and labels, split into a training and a test set."""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.data.checks import (
    check_finite,
    check_size,
    in_words,
)
from pyro_vae.data.draws import draw_once
from pyro_vae.data.errors import DataError
from pyro_vae.data.reading import shape_of_row
from pyro_vae.data.rows import (
    Rows,
    check_in_memory,
    count_few,
    leave_out,
    settle,
    spread,
)

Binarization = Literal["none", "dynamic", "static"]

# Seed of the split where a data set has no test set, and of the hold-out.
SPLIT_SEED = 0
# Seeds of the binary images that are drawn once for all runs.
TRAIN_SEED, TEST_SEED, VALIDATION_SEED = 1, 2, 3
SAMPLE = 1000  # images that stand for all that are not in memory


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split into a training and a test set.

    Attributes:
        name: The data set's name, or its file's.
        train: Training images, `(N, D)`: finite floats, in [0, 1] where they
            come from `load`. Others, such as standardized ones, suit a Gaussian
            likelihood. `Rows` are read as they are asked for.
        test: Test images, `(M, D)`, likewise, in memory.
        train_labels: Labels of the training images, `(N,)` integers; None for
            data without labels.
        test_labels: Labels of the test images, `(M,)` integers, or None.
        image_shape: `(height, width)` or `(channels, height, width)`, with 3
            channels; its product is D. By default a square, or a row where D
            is no square number.
        reading: What was made of the stored numbers, as a sentence.
        classes: The names of the labels 0, 1, ..., if they have any.
        missing: Whether images may hold NaN, for what was not observed.

    Raises:
        DataError: If images or labels are not of these shapes, or the images
            are not finite floats.
    """

    name: str
    train: Tensor | Rows
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    image_shape: tuple[int, ...] = ()
    reading: str = ""
    classes: tuple[str, ...] | None = None
    missing: bool = False

    def __post_init__(self) -> None:
        """Checks what a likelihood or a figure would stumble over later."""
        if not self.image_shape and self.train.ndim == 2:
            square = shape_of_row(self.train.shape[1])
            object.__setattr__(self, "image_shape", square)
        shape, size = self.image_shape, math.prod(self.image_shape)
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 3):
            raise DataError(
                f"image_shape is {shape}; expected (height, width) or "
                "(channels, height, width) with 3 channels: channels that come "
                "last are moved by images.movedim(-1, 1).flatten(1)"
            )
        for kind in ("train", "test"):
            images = getattr(self, kind)
            if isinstance(images, Rows) and kind == "train":
                check_size(kind, images, size, shape)
                continue
            if not isinstance(images, Tensor) or images.dim() != 2:
                raise DataError(
                    f"{kind} is {in_words(images)}; expected a tensor (N, D) "
                    "of images: flatten each"
                )
            check_size(kind, images, size, shape)
            check_finite(kind, images, self.missing)
            labels = getattr(self, f"{kind}_labels")
            if labels is not None and not (
                isinstance(labels, Tensor) and labels.shape == (len(images),)
            ):
                raise DataError(
                    f"{kind}_labels is {in_words(labels)}; expected a "
                    f"tensor of one label for each of {len(images)} images, or "
                    "None"
                )

    @property
    def data_dim(self) -> int:
        """The data dimension D: the values of an image, all channels."""
        return self.train.shape[1]

    def to(self, device: torch.device | str) -> "Dataset":
        """Returns the data set with its images on a device.

        Labels stay where they are.
        """
        return self._with(
            train=self.train.to(device), test=self.test.to(device)
        )

    def first(self, limit: int | None) -> "Dataset":
        """Returns the data set cut to the first images of either set.

        Args:
            limit: The number of images kept in each set; None keeps all.
        """
        return self._with(
            train=settle(self.train[:limit]),
            test=self.test[:limit],
            train_labels=_first(self.train_labels, limit),
            test_labels=_first(self.test_labels, limit),
        )

    def hold_out(self, fraction: float) -> tuple["Dataset", Tensor]:
        """Holds some training images out for validation, by a fixed seed.

        Args:
            fraction: The part of the training images that is held out, between
                0 and 1. At least one image is held out, and at least one is
                kept.

        Returns:
            The data set with the `K` kept training images, in their order, and
            the validation images, `(N - K, D)`.

        Raises:
            DataError: If there are fewer than two training images.
        """
        if isinstance(self.train, Rows):
            others, places = self._set_apart(self.train, fraction)
            known = leave_out(self.train_labels, places)
            rest = self._with(train=others, train_labels=known)
            return rest, self.train[places]
        held, kept = self._held_and_kept(fraction)
        labels = self.train_labels
        rest = self._with(
            train=self.train[kept],
            train_labels=None if labels is None else labels[kept],
        )
        return rest, self.train[held]

    def held_out_labels(self, fraction: float) -> Tensor | None:
        """Returns the labels of the images that `hold_out` holds out."""
        if isinstance(self.train, Rows):
            _, held = self._set_apart(self.train, fraction)
        else:
            held, _ = self._held_and_kept(fraction)
        return None if self.train_labels is None else self.train_labels[held]

    def _set_apart(self, images: Rows, fraction: float) -> tuple[Rows, Tensor]:
        """Splits images off that are read as they are asked for."""
        count = count_apart(images, fraction)
        # Another seed than that of the test set.
        return images.set_apart(count, SPLIT_SEED + 1)

    def _held_and_kept(self, fraction: float) -> tuple[Tensor, Tensor]:
        """Returns the places of the images held out, and of those kept."""
        size = len(self.train)
        if size < 2:
            raise DataError(
                f"there are {size} training images; expected at least 2 to "
                "hold some out for validation"
            )
        count = count_apart(self.train, fraction)
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        order = torch.randperm(size, generator=generator)
        return order[:count], order[count:].sort().values

    def binarize(self, how: Binarization) -> "Dataset":
        """Returns the data set with binary images, drawn from the gray ones.

        Each set is drawn from a fixed seed, so that every run is trained and
        tested on the same images. Images that are binary already do not
        change.

        Args:
            how: What is drawn here: with `none`, nothing; with `static`, both
                sets; with `dynamic`, the test set alone, because training
                draws its images anew in each epoch, by `draw_binary`.

        Raises:
            DataError: If there is anything to draw, and images are not in
                [0, 1].
        """
        if how == "none":
            return self
        for kind, images in (("train", self.train), ("test", self.test)):
            if isinstance(images, Rows):
                images = spread(images, SAMPLE)
            known = images[~images.isnan()] if self.missing else images
            low, high = known.aminmax() if known.numel() else (0, 0)
            if low < 0 or high > 1:
                raise DataError(
                    f"{kind} ranges from {low:g} to {high:g}; "
                    "expected images in [0, 1] to draw binary ones from: "
                    "rescale them, or set binarize to none"
                )
        train = self.train
        if how == "static":
            train = check_in_memory(train, "binarize=static")
            train = draw_once(train, TRAIN_SEED)
        return self._with(train=train, test=draw_once(self.test, TEST_SEED))

    def _with(self, **changes: Any) -> "Dataset":
        """Returns it with arrays that were made of its own, unchecked."""
        derived = copy.copy(self)
        vars(derived).update(changes)
        return derived

    @property
    def num_labels(self) -> int:
        """The number of classes: one more than the largest label, or 0."""
        known = (self.train_labels, self.test_labels)
        highest = [int(labels.max()) for labels in known if labels is not None]
        return 1 + max(highest, default=-1)

    @property
    def is_binary(self) -> bool:
        """Whether every observed pixel of the test set is 0 or 1."""
        x = self.test
        return bool(((x == 0) | (x == 1) | x.isnan()).all())

    def describe(self) -> dict[str, Any]:
        """Returns what a run's files record of the data, ready for JSON.

        Two data sets that differ in it are not the same: it holds the name,
        the sizes, the mean pixel of each set and the shape of an image, and
        with missing values the part that was observed. Of images that are not
        in memory it holds the mean of a sample.
        """
        train = self.train
        if isinstance(train, Rows):
            train = spread(train, SAMPLE)
        words = {
            "name": self.name,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "train_mean": _mean(train),
            "test_mean": _mean(self.test),
            "image_shape": list(self.image_shape),
        }
        if self.missing:
            words["observed"] = 1 - _mean(train.isnan())
        return words


def count_apart(images: Tensor | Rows, fraction: float) -> int:
    """Returns how many images to set apart, which are then in memory.

    It is a part of the images, at least one, and not all; of images that are
    read as they are asked for, only a few.
    """
    count = min(round(fraction * len(images)), count_few(images))
    return min(max(count, 1), len(images) - 1)


def to_unit_interval(images: Tensor) -> Tensor:
    """Returns bytes `(N, ...)` as floats in [0, 1], `(N, D)`."""
    return images.flatten(1).to(torch.get_default_dtype()).div_(255)


def _mean(images: Tensor) -> float:
    """Returns the mean of what was observed; 0 if nothing was."""
    mean = images.mean(dtype=torch.float64)
    if mean.isnan():
        mean = images.nanmean(dtype=torch.float64).nan_to_num(0.0)
    return mean.item()


def _first(labels: Tensor | None, limit: int | None) -> Tensor | None:
    return None if labels is None else labels[:limit]
