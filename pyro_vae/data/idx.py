"""IDX files, as MNIST's are: two magic bytes, a type, a shape, the numbers."""

import gzip
import math
from pathlib import Path

import numpy as np

from pyro_vae.data.errors import DataError

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
KINDS = {  # of the files beside each other, by what their names have
    "train": ("train-images", "train_images"),
    "train_labels": ("train-labels", "train_labels"),
    "test": ("t10k-images", "test-images"),
    "test_labels": ("t10k-labels", "test-labels"),
}


def is_idx(path: Path) -> bool:
    """Returns whether a file begins as an IDX file does, packed or not."""
    try:
        head = _open(path, 4)
    except (OSError, EOFError):
        return False
    return (
        len(head) == 4
        and head[:2] == b"\0\0"
        and head[2] in TYPES
        and 1 <= head[3] <= 4
    )


def find_idx(folder: Path) -> Path | None:
    """Returns the file of training images in a folder, or None."""
    for path in sorted(folder.iterdir()):
        named = any(word in path.name for word in KINDS["train"])
        if named and path.is_file() and is_idx(path):
            return path
    return None


def read_idx(path: Path) -> dict[str, np.ndarray]:
    """Reads an IDX file of images, and the files that belong to it.

    Args:
        path: The images. Where its name is that of training images, labels
            and test images are looked for beside it, by the names of MNIST's.

    Returns:
        The arrays by part.
    """
    parts = {"train": _read(path)}
    word = next((w for w in KINDS["train"] if w in path.name), None)
    if word is None:
        return parts
    for part, others in KINDS.items():
        if part == "train":
            continue
        start = path.name.split(word)[0]
        named = tuple(start + other for other in others)
        for file in sorted(path.parent.iterdir()):
            if file.name.startswith(named) and is_idx(file):
                parts[part] = _read(file)
                break
    return parts


def _read(path: Path) -> np.ndarray:
    content = _open(path)
    dtype, rank = np.dtype(TYPES[content[2]]), content[3]
    shape = np.frombuffer(content, ">u4", rank, 4).tolist()
    start = 4 + 4 * rank
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        raise DataError(
            f"{path} has {len(content) - start} bytes after its header, which "
            f"claims {expected}; expected a whole IDX file"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _open(path: Path, count: int = -1) -> bytes:
    """Returns the first bytes of a file, or all; a packed one is unpacked."""
    is_packed = path.suffix == ".gz"
    with gzip.open(path) if is_packed else open(path, "rb") as file:
        return file.read(count)
