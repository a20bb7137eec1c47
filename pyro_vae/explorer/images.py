"""Test images in bytes, and what a drawn one must look like."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.explorer.arrays import Blob, to_list

STEPS = (1, 16, 255)  # equal gray levels between 0 and 1
INK = 0.2  # of the brightest pixel, from which a pixel belongs to a figure
SOME = 2000  # images that the frame is measured on


def number_labels(data: Dataset) -> tuple[list[str], Tensor | None]:
    """Returns the labels' names, and each test image's, numbered from 0."""
    if data.test_labels is None:
        return ["test images"], None
    kinds, numbers = data.test_labels.unique(return_inverse=True)
    return [str(kind) for kind in kinds.tolist()], numbers


def choose_images(labels: Tensor | None, count: int, total: int) -> list[int]:
    """Returns the places of the first images of each label, label by label."""
    if labels is None:
        return list(range(min(count, total)))
    seen = torch.zeros(int(labels.max()) + 1, dtype=torch.long)
    rounds = []
    for place, label in enumerate(labels.tolist()):
        rounds.append((int(seen[label]), place, label))
        seen[label] += 1
    chosen = sorted(rounds)[:count]
    return [place for _, place, _ in sorted(chosen, key=lambda c: (c[2], c[1]))]


def pack_images(x: Tensor, blob: Blob) -> dict[str, Any]:
    """Returns images as bytes, JSON-able, exact where 256 levels can be.

    Args:
        x: Images, `(N, D)`.
        blob: Where they go.
    """
    low, high = (value.item() for value in x.aminmax())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    steps = next(
        (
            count
            for count in STEPS
            if torch.allclose(x * count, (x * count).round(), atol=1e-4)
        ),
        STEPS[-1],
    )
    scaled = (x - low) / max(high - low, 1e-30) * steps
    return {
        "pixels": blob.add(scaled.round().byte()),
        "low": low,
        "step": (high - low) / steps,
    }


def measure_frame(data: Dataset) -> dict[str, Any] | None:
    """Returns where a drawn figure must stand, JSON-able; None in color.

    MNIST's were fitted into 20 x 20 pixels, and their centers of mass put to
    the center of 28 x 28. Other data were prepared otherwise: the typical size
    and center are those of the test images.
    """
    *channels, height, width = data.image_shape
    if channels:
        return None
    x = data.test[:SOME].view(-1, height, width).clamp(min=0)
    has_ink = x > INK * x.max()
    rows, columns = has_ink.any(2), has_ink.any(1)
    extent = torch.maximum(_extent(rows), _extent(columns)).float()
    mass = x.sum((1, 2)).clamp(min=1e-12)
    y = (x.sum(2) * torch.arange(height)).sum(1) / mass
    z = (x.sum(1) * torch.arange(width)).sum(1) / mass
    return {
        "box": to_list(extent.quantile(0.5)),
        "center": [to_list(y.quantile(0.5)), to_list(z.quantile(0.5))],
        "brightest": to_list(x.amax(1).amax(1).quantile(0.5)),
    }


def _extent(has_ink: Tensor) -> Tensor:
    """Returns the length from the first to the last true of each row."""
    first = has_ink.int().argmax(1)
    last = has_ink.shape[1] - has_ink.flip(1).int().argmax(1)
    return last - first
