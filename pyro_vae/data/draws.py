"""Random draws: binary images from gray ones, and minibatches."""

from collections.abc import Iterator

import torch
from torch import Tensor


def draw_binary(images: Tensor) -> Tensor:
    r"""Returns binary images, with each pixel's brightness its chance of a 1.

    .. math:: x_d \sim \operatorname{Bernoulli}(\text{images}_d)

    The draws come from torch's global generator of the images' device.

    Args:
        images: Floats in [0, 1], of any shape, or NaN, which stays.

    Returns:
        Zeros and ones, of the images' shape and dtype.

    References:
        On the quantitative analysis of deep belief networks, R. Salakhutdinov
        and I. Murray, 2008.
    """
    if not images.isnan().any():
        return torch.bernoulli(images)
    return torch.where(
        images.isnan(), images, torch.bernoulli(images.nan_to_num())
    )


def draw_once(images: Tensor, seed: int) -> Tensor:
    """Returns binary images that are the same on every device.

    They are the same in every dtype, too. Images that are binary already do
    not change.

    Args:
        images: Floats in [0, 1], of any shape, or NaN, which stays.
        seed: The seed of the draw.

    Returns:
        Zeros and ones, of the images' shape, dtype and device.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(images.shape, generator=generator, dtype=torch.float32)
    drawn = (uniform.to(images.device) < images).to(images)
    return torch.where(images.isnan(), images, drawn)


def minibatches(
    num_data: int, batch_size: int, first: int = 0
) -> Iterator[Tensor]:
    """Returns minibatches as indices of images, `(B,)`, each image once.

    The last minibatch may be smaller. The order is drawn at once, from torch's
    global generator of the CPU, so that it is the same on every device.

    Args:
        num_data: The number of images, N.
        batch_size: The number of images in a minibatch, B.
        first: The number of minibatches that are left out, at the beginning.
    """
    # Indices rather than a DataLoader, because the images are one tensor on
    # the device that trains, and a minibatch is one indexing operation there.
    # A DataLoader fetches B images one by one in Python, stacks them and copies
    # them to the device; on a CPU alone that takes three times as long. The
    # indices also find each image's own parameters, where inference keeps
    # some, and a resumed epoch skips its first minibatches without reading
    # them.
    # Integers of 32 bits have the same order, and take half the memory.
    kind = torch.int32 if num_data < 2**31 else torch.int64
    order = torch.randperm(num_data, dtype=kind)
    starts = range(first * batch_size, num_data, batch_size)
    return (order[start : start + batch_size].long() for start in starts)
