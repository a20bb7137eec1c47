"""Anything with a length and an index, as rows of numbers.

What is known of a source is how it is indexed; no library needs to be there
for its sources to be read.
"""

import mmap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset

from pyro_vae.data.errors import DataError

IMAGE_NAMES = ("image", "images", "img", "x", "pixel_values", "data")
CHUNK = 500  # rows of a mapped file that are in memory at a time
Read = Callable[[np.ndarray], np.ndarray]
LABEL_NAMES = ("label", "labels", "y", "target", "targets")


class Source(NamedTuple):
    """Rows of numbers that can be read in any order.

    Attributes:
        shape: The shape of the array of all rows, `(N, ...)`.
        dtype: The type of the stored numbers.
        read: Returns the rows of some numbers, which rise and are all
            different, as an array.
        is_in_memory: Whether it is all in memory already.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Read
    is_in_memory: bool

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Returns the rows of some numbers, in any order, as an array."""
        # Files are read fastest in their order, and some libraries insist.
        different, places = np.unique(rows, return_inverse=True)
        return self.read(different)[places]


def open_source(data: Any) -> Source:
    """Returns anything that has a length and an index as a source.

    Args:
        data: A tensor or an array, also a memory-mapped one, or one of HDF5,
            zarr or a sparse matrix; a data set of Hugging Face, or one of
            torch with a length, whose items are images, or tuples or
            dictionaries that begin with one.

    Raises:
        DataError: If it cannot be read in any order.
    """
    has_index = hasattr(data, "__getitem__") and (
        hasattr(data, "__len__") or hasattr(data, "shape")
    )
    if isinstance(data, IterableDataset) or not has_index:
        raise DataError(
            f"the data are {type(data).__name__}, which cannot be read in any "
            "order, as the run's own permutation of each epoch needs; expected "
            "something with a length and an index: write a stream to a file "
            "first"
        )
    if isinstance(data, Tensor):
        data = data.detach().cpu().numpy()
    if isinstance(data, np.ma.MaskedArray):  # what is masked was not observed
        holes = np.ma.getmaskarray(data)
        data = np.ma.getdata(data)
        data = np.where(holes, np.nan, data) if holes.any() else data
    if hasattr(data, "column_names"):
        return _open_columns(data)
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        return _open_array(data)
    return _open_items(data)


def find_name(names: Any, wanted: tuple[str, ...]) -> str | None:
    """Returns the first wanted name that is there, or None."""
    return next((name for name in wanted if name in names), None)


def _open_array(data: Any) -> Source:
    """Opens what is indexed by an array of rising numbers."""
    shape = tuple(int(size) for size in data.shape)
    index = getattr(data, "oindex", data)  # that of zarr

    def read(rows: np.ndarray) -> np.ndarray:
        found = index[rows]
        dense = found.toarray() if hasattr(found, "toarray") else found
        return np.asarray(dense)

    is_array = isinstance(data, np.ndarray)
    is_mapped = isinstance(data, np.memmap)
    reader = _in_little_memory(data, read) if is_mapped else read
    in_memory = is_array and not is_mapped
    return Source(shape, np.dtype(data.dtype), reader, in_memory)


def _in_little_memory(data: np.memmap, read: Read) -> Read:
    """Returns a reader of a mapped file that gives its memory back.

    Otherwise a process would grow with all rows that it has ever read, and
    with their neighbors.
    """
    mapped: Any = getattr(data, "_mmap", None)
    can_release = data.mode == "r" and hasattr(mapped, "madvise")
    if can_release:  # and read no more than is asked for
        mapped.madvise(mmap.MADV_RANDOM)

    held = 0  # rows

    def read_in_chunks(rows: np.ndarray) -> np.ndarray:
        nonlocal held
        found = np.empty((len(rows), *data.shape[1:]), data.dtype)
        for start in range(0, len(rows), CHUNK):
            chunk = slice(start, start + CHUNK)
            found[chunk] = read(rows[chunk])
            held += len(rows[chunk])
            if can_release and held >= CHUNK:  # seldom, for it takes a while
                mapped.madvise(mmap.MADV_DONTNEED)
                held = 0
        return found

    return read_in_chunks


def _open_columns(data: Any) -> Source:
    """Opens a table of named columns, as Hugging Face's data sets are."""
    names = list(data.column_names)
    column = find_name(names, IMAGE_NAMES)
    if column is None and len(names) == 1:
        column = names[0]
    if column is None:
        raise DataError(
            f"the data have the columns {', '.join(map(str, names))}; expected "
            f"one named {' or '.join(IMAGE_NAMES[:2])}: select or rename it"
        )

    def read(rows: np.ndarray) -> np.ndarray:
        return _stack(data[rows.tolist()][column])

    first = read(np.arange(min(1, len(data))))
    return Source((len(data), *first.shape[1:]), first.dtype, read, False)


def _open_items(data: Any) -> Source:
    """Opens what is indexed by one number at a time."""

    def read(rows: np.ndarray) -> np.ndarray:
        return _stack([_image_of(data[int(row)]) for row in rows])

    first = read(np.arange(min(1, len(data))))
    return Source((len(data), *first.shape[1:]), first.dtype, read, False)


def _image_of(item: Any) -> Any:
    """Returns the image of an item, which may have a label beside it."""
    if isinstance(item, Mapping):
        name = find_name(item, IMAGE_NAMES)
        if name is None:
            raise DataError(
                f"an item has the keys {', '.join(map(str, item))}; expected "
                f"an {IMAGE_NAMES[0]}"
            )
        return item[name]
    return item[0] if isinstance(item, tuple | list) else item


def _stack(images: Any) -> np.ndarray:
    """Returns images of one shape as one array."""
    if isinstance(images, Tensor | np.ndarray):
        return np.asarray(images)
    arrays = [np.asarray(image) for image in images]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        listed = ", ".join(map(str, sorted(shapes)[:3]))
        raise DataError(
            f"the images have the shapes {listed}; expected one shape: resize "
            "them"
        )
    return np.stack(arrays) if arrays else np.empty((0, 0))


def find_labels(data: Any) -> Any:
    """Returns the labels beside a source's images, or None.

    Of torch's data sets it takes `targets`, or the second tensor of a
    `TensorDataset`; of Hugging Face's the column of that name. The items
    themselves are not read for their labels.
    """
    if hasattr(data, "column_names"):
        name = find_name(data.column_names, LABEL_NAMES)
        return None if name is None else np.asarray(data[name])
    tensors = getattr(data, "tensors", None)
    if tensors is not None:
        return tensors[1] if len(tensors) > 1 else None
    return getattr(data, "targets", None)
