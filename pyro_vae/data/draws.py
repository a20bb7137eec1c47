"""What is drawn of images: binary ones, and minibatches."""

from collections.abc import Iterator

import torch
from torch import Tensor


def draw_binary(images: Tensor) -> Tensor:
    r"""Draws binary images, each pixel white as often as it is bright.

    .. math:: x_d \sim \operatorname{Bernoulli}(\text{images}_d)

    The draws come from torch's global generator of the images' device.

    Args:
        images: Floats in [0, 1].

    References:
        On the quantitative analysis of deep belief networks, R. Salakhutdinov
        and I. Murray, 2008.
    """
    return torch.bernoulli(images)


def draw_once(images: Tensor, seed: int) -> Tensor:
    """Draws binary images, the same on every device and in every dtype.

    Binary images stay what they are.

    Args:
        images: Floats in [0, 1].
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(images.shape, generator=generator, dtype=torch.float32)
    return (uniform.to(images.device) < images).to(images)


def minibatches(num_data: int, batch_size: int) -> Iterator[Tensor]:
    """Yields the places of every image once, `(B,)`, in random order.

    The last minibatch may be smaller. The order is drawn at the first one,
    from torch's global generator of the CPU, so that it is the same on every
    device.

    Args:
        num_data: N, the number of images.
        batch_size: B.
    """
    yield from torch.randperm(num_data).split(batch_size)
