"""The user's own images, from NumPy files that are checked."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import DataError, Dataset, split, to_unit_interval


def load_file(path: Path) -> Dataset:
    """Loads the user's own images, split 80/20 with a fixed seed.

    Args:
        path: An `.npy` file of an array `(N, ...)`, or an `.npz` file with
            that array as `images` (or as its only array) and optionally
            `labels`, `(N,)` integers. Images are floats in [0, 1], or uint8,
            which is divided by 255.

    Raises:
        DataError: If the file is missing or unreadable, or an array has the
            wrong shape, type or range, or holds NaN.
    """
    arrays = _read_arrays(path)
    if len(arrays) == 1:
        arrays = {"images": next(iter(arrays.values()))}
    if "images" not in arrays:
        raise DataError(
            f"{path} holds the arrays {', '.join(arrays) or '(none)'}; "
            "expected the images under the name 'images'"
        )
    images = _check_images(path, arrays["images"])
    labels = _check_labels(path, arrays.get("labels"), len(images))
    image_shape = _image_shape(arrays["images"].shape[1:])
    return split(path.name, images, labels, image_shape)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a NumPy file by name."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"images": content}
            return {key: content[key] for key in content.files}
    except Exception as error:  # NumPy raises a dozen kinds for bad files
        raise DataError(
            f"{path} cannot be read as a NumPy file: {error}"
        ) from None


def _check_images(path: Path, array: np.ndarray) -> Tensor:
    """Returns the images as floats in [0, 1], `(N, D)`."""
    if array.ndim < 2 or len(array) < 5 or math.prod(array.shape[1:]) < 1:
        raise DataError(
            f"images in {path} have shape {array.shape}; expected (N, ...) "
            "with at least 5 images"
        )
    if array.dtype == np.uint8:
        return to_unit_interval(torch.as_tensor(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"images in {path} are of type {array.dtype}; expected floats in "
            "[0, 1] or uint8"
        )
    if np.isnan(array).any():
        raise DataError(
            f"images in {path} hold {np.isnan(array).sum()} NaN; expected none"
        )
    low, high = array.min(), array.max()
    if low < 0 or high > 1:
        raise DataError(
            f"images in {path} range from {low:g} to {high:g}; expected "
            "floats in [0, 1]: rescale them"
        )
    images = torch.as_tensor(array, dtype=torch.get_default_dtype())
    return images.flatten(1)


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


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape to draw an image in, given its stored shape.

    A shape that is no picture's, such as a vector, becomes a square of the
    same size, or a row where the size is no square number.
    """
    if len(shape) == 3 and shape[2] == 1:
        return shape[:2]
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return shape
    size = math.prod(shape)
    side = math.isqrt(size)
    return (side, side) if side * side == size else (1, size)
