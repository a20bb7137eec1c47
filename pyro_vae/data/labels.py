"""Labels as people store them, as numbers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.errors import DataError

MANY_CLASSES = 1000


def to_labels(
    where: str, labels: Any, size: int
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Returns labels as integers, and their names where they have some.

    Args:
        where: What sentences call them.
        labels: `(N,)` or `(N, 1)` integers, booleans, whole floats or strings,
            or `(N, K)` one-hot rows.
        size: N, the number of images.

    Returns:
        The labels, `(N,)` integers, and the names of 0, 1, ..., in the order of
        the alphabet, for strings.

    Raises:
        DataError: If there is not one label for each image, or they are no
            classes.
    """
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or len(array) != size:
        raise DataError(
            f"{where} has the shape {array.shape}; expected one label for each "
            f"of {size} images: shape ({size},), or one-hot rows"
        )
    if array.ndim == 2:
        return _from_one_hot(where, array), None
    if array.dtype.kind in "OUS":
        return _from_strings(where, array)
    if array.dtype == bool:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iuf":
        raise DataError(
            f"{where} is of type {array.dtype}; expected integers or strings"
        )
    others = array[~(np.floor(array) == array) | np.isinf(array)]
    if len(others):
        raise DataError(
            f"{where} has values such as {others[0]}; expected whole numbers "
            "or strings: labels are classes"
        )
    return torch.from_numpy(array.astype(np.int64)), None


def _from_one_hot(where: str, array: np.ndarray) -> Tensor:
    is_one_hot = array.dtype.kind in "biuf" and (
        ((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all()
    )
    if not is_one_hot:
        raise DataError(
            f"{where} has the shape {array.shape} and rows that are not "
            "one-hot; expected a label for each image"
        )
    return torch.from_numpy(array.argmax(1).astype(np.int64))


def _from_strings(
    where: str, array: np.ndarray
) -> tuple[Tensor, tuple[str, ...]]:
    texts = [
        value.decode("utf-8", "backslashreplace")
        if isinstance(value, bytes)
        else str(value)
        for value in array
    ]
    names = sorted(set(texts))
    if len(names) > MANY_CLASSES:
        raise DataError(
            f"{where} has {len(names)} different strings; expected at most "
            f"{MANY_CLASSES} classes"
        )
    numbers = {name: number for number, name in enumerate(names)}
    codes = torch.tensor([numbers[text] for text in texts])
    return codes, tuple(names)
