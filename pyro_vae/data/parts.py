"""What the arrays of a file are for, as their names tell."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae.data.errors import DataError

# Names as Keras's, MedMNIST's, dSprites' and other files have them.
NAMES = {
    "train": (
        "images",
        "x_train",
        "train_images",
        "X_train",
        "imgs",
        "X",
        "x",
        "data",
    ),
    "val": ("x_val", "val_images", "X_val", "x_valid"),
    "test": ("x_test", "test_images", "X_test"),
    "train_labels": (
        "labels",
        "y_train",
        "train_labels",
        "Y_train",
        "y",
        "Y",
        "targets",
    ),
    "val_labels": ("y_val", "val_labels", "Y_val", "y_valid"),
    "test_labels": ("y_test", "test_labels", "Y_test"),
}
MAX_NAMES = 10  # arrays that a sentence lists


class Found(NamedTuple):
    """What a reader has found.

    Attributes:
        parts: Arrays or the like by their part, as `find_parts` names them.
        said: What the user should know of it, or nothing.
        is_table: Whether its rows are no images, but values of columns.
        is_scaled: Whether the reader has brought each column to [0, 1].
    """

    parts: dict[str, Any]
    said: str = ""
    is_table: bool = False
    is_scaled: bool = False


def find_parts(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the name of the array of each part that a file has.

    Args:
        path: The file.
        names: The names of its arrays. A single one is the images, whatever
            its name.

    Returns:
        Names by their part: train, val and test, and the labels of each.

    Raises:
        DataError: If none is the training images.
    """
    there = list(names)
    if len(there) == 1:
        return {"train": there[0]}
    parts = {
        part: next(name for name in wanted if name in there)
        for part, wanted in NAMES.items()
        if any(name in there for name in wanted)
    }
    if "train" not in parts:
        more = len(there) - MAX_NAMES
        listed = ", ".join(there[:MAX_NAMES]) or "(none)"
        raise DataError(
            f"{path} holds the arrays {listed}"
            f"{f' and {more} more' if more > 0 else ''}; expected the images "
            "under the name 'images', or x_train or train_images"
        )
    return parts
