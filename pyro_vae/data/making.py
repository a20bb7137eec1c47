"""Data sets of anything that holds images: files, arrays, other data sets."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.errors import DataError
from pyro_vae.data.labels import to_labels
from pyro_vae.data.parts import Found
from pyro_vae.data.reading import Options, Reading, make_reading
from pyro_vae.data.rows import Rows, check_in_memory, fits
from pyro_vae.data.sources import Source, find_labels, open_source
from pyro_vae.data.splitting import split
from pyro_vae.machine import find_memory

FEWEST = 5  # images of a data set


def to_dataset(data: Any, options: Options | None = None) -> Dataset:
    """Returns anything that holds images as a data set.

    Args:
        data: A `Dataset`, which is returned as it is; or a tensor, an array, a
            `TensorDataset` or the like (see `open_source`), of which a fifth
            becomes the test set, chosen by a fixed seed.
        options: How it is read.

    Raises:
        DataError: If it cannot be read in any order, or as images.
    """
    if isinstance(data, Dataset):
        return data
    options = options or Options()
    name = type(data).__name__
    tensors = getattr(data, "tensors", None)
    parts = {"train": data if tensors is None else tensors[0]}
    labels = find_labels(data)
    if labels is not None:
        parts["train_labels"] = labels
    return make_dataset(name, f"the {name}", Found(parts), options)


def make_dataset(
    name: str, where: str, found: Found, options: Options
) -> Dataset:
    """Makes a data set of arrays, or of what is indexed like them.

    Args:
        name: The data set's name.
        where: What sentences call the source.
        found: Images and labels by part. Images for validation are added to
            those of training.
        options: How they are read.

    Raises:
        DataError: If they cannot be read as images, or the labels as labels.
    """
    where = printable(where)
    images, shape, notes = _read_all(where, found, options)
    labels, classes = read_labels(where, found.parts, images)
    if "val" in images:
        notes.append(f"{len(images['val'])} for validation added to training")
        _join_validation(images, labels)
    said = "; ".join(filter(None, notes))
    if "test" not in images:
        return split(
            name,
            images["train"],
            labels.get("train"),
            shape,
            options.test_fraction,
            said,
            classes,
            options.missing,
        )
    return Dataset(
        name,
        images["train"],
        check_in_memory(images["test"], "a test set"),
        labels.get("train"),
        labels.get("test"),
        shape,
        said,
        classes,
        options.missing,
    )


def _read_all(
    where: str, found: Found, options: Options
) -> tuple[dict[str, Tensor | Rows], tuple[int, ...], list[str]]:
    """Returns the images of each part, their shape, and what is said."""
    images: dict[str, Tensor | Rows] = {}
    readings = {}
    for part in ("train", "val", "test"):
        if part in found.parts:
            which = "" if part == "train" else f"{part} "
            images[part], readings[part] = read_images(
                f"{which}images in {where}", found, part, options
            )
    shapes = {reading.image_shape for reading in readings.values()}
    if len(shapes) > 1:
        listed = " and ".join(map(str, sorted(shapes)))
        raise DataError(f"images in {where} have shapes {listed}; expected one")
    return images, shapes.pop(), [found.said, readings["train"].said]


def _join_validation(
    images: dict[str, Tensor | Rows], labels: dict[str, Tensor]
) -> None:
    """Adds the images for validation to those of training, in place."""
    both = [
        check_in_memory(images[part], "adding images for validation")
        for part in ("train", "val")
    ]
    images["train"] = torch.cat(both)
    known = [labels.pop(part, None) for part in ("train", "val")]
    if known[0] is not None and known[1] is not None:
        labels["train"] = torch.cat([known[0], known[1]])


def read_images(
    where: str, found: Found, part: str, options: Options
) -> tuple[Tensor | Rows, Reading]:
    """Returns images as floats in memory, or as rows of a large source.

    Args:
        where: What sentences call them.
        found: What a reader has found.
        part: Which of its parts they are.
        options: How they are read.

    Returns:
        The images `(N, D)`, and how they were read.
    """
    data = found.parts[part]
    source = data if isinstance(data, Source) else open_source(data)
    length = source.shape[0] if source.shape else 0
    if len(source.shape) < 2 or length < FEWEST:
        raise DataError(
            f"{where} have shape {source.shape}; expected (N, ...) with at "
            f"least {FEWEST} images"
        )
    values = int(np.prod(source.shape[1:], dtype=np.float64))
    is_small = fits(length, values)
    if is_small:
        _check_memory(where, source)
    if is_small and not source.is_in_memory:
        array = source.read(np.arange(length))
        source = Source(source.shape, array.dtype, lambda r: array[r], True)
    if found.is_scaled:
        options = replace(options, scale=None)
    reading = make_reading(where, source, options)
    if found.is_table:
        reading = reading.as_rows()
    if is_small:
        return reading.convert(source.read(np.arange(length))), reading

    def read(rows: np.ndarray) -> Tensor:
        return reading.convert(source.gather(rows))

    return Rows(read, length, values), reading


def _check_memory(where: str, source: Source) -> None:
    """Raises a DataError if the machine cannot hold the images.

    It holds them as they are stored, and twice as floats: whole, and split
    into two sets.
    """
    floats = 2 * torch.get_default_dtype().itemsize
    count = int(np.prod(source.shape, dtype=np.float64))
    needed, memory = count * (source.dtype.itemsize + floats), find_memory()
    if needed > memory:
        raise DataError(
            f"{where} take {needed / 2**30:.1f} GiB of memory, and this "
            f"machine has {memory / 2**30:.1f}: store fewer images"
        )


def read_labels(
    where: str, parts: Mapping[str, Any], images: Mapping[str, Tensor | Rows]
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Returns the labels of each part as integers, and their common names."""
    given = {
        part: np.asarray(parts[f"{part}_labels"])
        for part in images
        if f"{part}_labels" in parts
    }
    if any(array.dtype.kind in "OUS" for array in given.values()):
        # One numbering for all parts.
        joined = np.concatenate([array.reshape(-1) for array in given.values()])
        codes, classes = to_labels(f"labels in {where}", joined, len(joined))
        sizes = [array.size for array in given.values()]
        found = dict(zip(given, codes.split(sizes), strict=True))
    else:
        found, classes = {}, None
        for part, array in given.items():
            size = len(images[part])
            found[part], _ = to_labels(f"labels in {where}", array, size)
    for part, labels in found.items():
        if len(labels) != len(images[part]):
            raise DataError(
                f"{where} has {len(labels)} labels for {len(images[part])} "
                f"{part} images; expected one for each"
            )
    return found, classes


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
