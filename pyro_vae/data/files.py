"""The user's own images, from NumPy files that are checked."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import read_arrays
from pyro_vae.data.dataset import DataError, Dataset, split, to_unit_interval


def load_file(path: Path) -> Dataset:
    """Loads the user's own images, split 80/20 with a fixed seed.

    Args:
        path: An `.npy` file of an array `(N, D)`, `(N, height, width)` or
            `(N, height, width, channels)` with 1 or 3 channels, or an `.npz`
            file with that array as `images` (or as its only array) and
            optionally `labels`, `(N,)` integers. Images are floats in [0, 1]
            of any precision and byte order; or booleans, or uint8 that are all
            0 or 1, which are binary images; or other uint8, which are divided
            by 255.

    Raises:
        DataError: If the file is missing or unreadable, or an array has the
            wrong shape, type or range, or holds NaN.
    """
    array, label_array = read_arrays(path)
    images = _check_images(path, array)
    labels = _check_labels(path, label_array, len(images))
    image_shape = _image_shape(path, array.shape)
    return split(printable(path.name), images, labels, image_shape)


def printable(name: str) -> str:
    r"""Returns a file's name as text that can be printed, drawn and stored.

    Bytes that are no UTF-8, and characters such as a newline, become escapes
    like `\xff`.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text
    )


def _check_images(path: Path, array: np.ndarray) -> Tensor:
    """Returns the images as floats in [0, 1], `(N, D)`."""
    if array.ndim < 2 or len(array) < 5 or math.prod(array.shape[1:]) < 1:
        raise DataError(
            f"images in {path} have shape {array.shape}; expected (N, ...) "
            "with at least 5 images"
        )
    dtype = torch.get_default_dtype()
    if array.dtype == bool or (array.dtype == np.uint8 and array.max() <= 1):
        return torch.as_tensor(array, dtype=dtype).flatten(1)
    if array.dtype == np.uint8:
        return to_unit_interval(torch.as_tensor(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"images in {path} are of type {array.dtype}; expected floats in "
            "[0, 1], booleans or uint8"
        )
    if np.isnan(array).any():
        raise DataError(
            f"images in {path} hold {np.isnan(array).sum()} NaN; expected none"
        )
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise DataError(
            f"images in {path} range from {low:g} to {high:g}; expected "
            "floats in [0, 1]: rescale them"
        )
    # torch knows neither long doubles nor another machine's byte order.
    is_long = array.dtype.itemsize > 8
    native = np.float64 if is_long else array.dtype.newbyteorder("=")
    array = array.astype(native, copy=False)
    return torch.as_tensor(array, dtype=dtype).flatten(1)


def _check_labels(
    path: Path, labels: np.ndarray | None, size: int
) -> Tensor | None:
    if labels is None:
        return None
    if labels.shape != (size,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels in {path} are {labels.dtype} of shape {labels.shape}; "
            f"expected integers of shape ({size},)"
        )
    return torch.as_tensor(labels.astype(np.int64))


def _image_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape to draw an image in, given the array's shape.

    A vector becomes a square of the same size, or a row where the size is no
    square number.
    """
    match shape[1:]:
        case (size,):
            side = math.isqrt(size)
            return (side, side) if side * side == size else (1, size)
        case (_, _, 3):
            return shape[1:]
        case (height, width) | (height, width, 1) | (1, height, width):
            return (height, width)
    raise DataError(
        f"images in {path} have shape {shape}; expected (N, height, width), "
        "(N, height, width, channels) with 1 or 3 channels, or (N, D): leave "
        "other channels out, or flatten each image"
    )
