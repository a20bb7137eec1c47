"""A training and a test set, made of images that are not split yet."""

import torch
from torch import Tensor

from pyro_vae.data.dataset import SPLIT_SEED, Dataset, count_apart
from pyro_vae.data.rows import Rows, leave_out

TEST_FRACTION = 0.2


def split(
    name: str,
    images: Tensor | Rows,
    labels: Tensor | None,
    image_shape: tuple[int, ...],
    test_fraction: float | None = None,
    reading: str = "",
    classes: tuple[str, ...] | None = None,
    missing: bool = False,
) -> Dataset:
    """Splits images into a training and a test set, by a fixed seed.

    Args:
        name: The data set's name.
        images: Floats, `(N, D)`.
        labels: `(N,)` integers, or None.
        image_shape: `(height, width)` or `(channels, height, width)`.
        test_fraction: The part that becomes the test set; by default a fifth,
            and of images that are not in memory no more than 10,000 or 64 MiB.
        reading: What was made of the stored numbers.
        classes: The names of the labels.
        missing: Whether NaN stands for what was not observed.
    """
    if isinstance(images, Rows):
        count = count_apart(images, test_fraction or TEST_FRACTION)
        others, places = images.set_apart(count, SPLIT_SEED)
        return Dataset(
            name,
            others,
            images[places],
            leave_out(labels, places),
            None if labels is None else labels[places],
            image_shape,
            reading,
            classes,
            missing,
        )
    parts = _split_tensor(images, labels, test_fraction)
    return Dataset(name, *parts, image_shape, reading, classes, missing)


def _split_tensor(
    images: Tensor, labels: Tensor | None, test_fraction: float | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Returns the images and the labels of either set."""
    size = len(images)
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(size, generator=generator)
    count = size // 5  # rounded down, as it always was
    if test_fraction is not None:
        count = count_apart(images, test_fraction)
    kept, apart = order.split([size - count, count])
    of_kept = None if labels is None else labels[kept]
    of_apart = None if labels is None else labels[apart]
    return images[kept], images[apart], of_kept, of_apart
