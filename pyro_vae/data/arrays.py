"""Arrays of NumPy files: only those that are wanted, and none that lies.

A file's header says how large its array is. It is held against what the file
holds, and against the machine's memory, before anything is allocated.
"""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy

from pyro_vae.data.dataset import DataError
from pyro_vae.machine import find_memory

MAX_HEADER = 10_000  # bytes; NumPy reads no longer ones
CHUNK = 1 << 20  # bytes
MAX_NAMES = 10  # arrays that a sentence lists
MAX_REASON = 200  # characters of a reader's own words


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the images and the labels of a NumPy file, and reads no more.

    Args:
        path: An `.npy` file of the images, or an `.npz` file of `images`, or of
            one array alone, and optionally `labels`.

    Returns:
        The images as they are stored, and the labels, or None.

    Raises:
        DataError: If the file is missing or unreadable, an array claims more
            than its file or the machine holds, or there are no images.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                file.seek(0)
                return _read_array(file, path.stat().st_size), None
            with zipfile.ZipFile(file) as archive:
                return _read_members(path, archive)
    except DataError:
        raise
    except Exception as error:  # they raise a dozen kinds for bad files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as a NumPy file: {reason[:MAX_REASON]}"
        ) from None


def _read_members(
    path: Path, archive: zipfile.ZipFile
) -> tuple[np.ndarray, np.ndarray | None]:
    names = [
        name.removesuffix(".npy")
        for name in archive.namelist()
        if name.endswith(".npy")
    ]
    images = names[0] if len(names) == 1 else "images"
    if images not in names:
        more = len(names) - MAX_NAMES
        listed = ", ".join(names[:MAX_NAMES]) or "(none)"
        raise DataError(
            f"{path} holds the arrays {listed}"
            f"{f' and {more} more' if more > 0 else ''}; expected the images "
            "under the name 'images'"
        )

    def read(name: str) -> np.ndarray:
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as file:
            return _read_array(file, member.file_size)

    has_labels = len(names) > 1 and "labels" in names
    return read(images), read("labels") if has_labels else None


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Returns the array of an open `.npy` file that says it has `size` bytes.

    Raises:
        ValueError: If its header is none, or claims too much.
    """
    head = io.BytesIO(file.read(MAX_HEADER))
    shape, is_fortran, dtype = _header_reader(npy.read_magic(head))(head)
    if dtype.hasobject:
        raise ValueError("it holds Python objects; expected numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"its header claims the shape {shape}")
    count = math.prod(shape)
    claimed, held = count * dtype.itemsize, size - head.tell()
    _check_claim(claimed, held)
    _check_memory(claimed, count)
    # A zip file may lie about its members' sizes: memory is taken for what has
    # been read, and not for what is claimed.
    content = bytearray(head.read(claimed))
    while len(content) < claimed:
        chunk = file.read(min(CHUNK, claimed - len(content)))
        if not chunk:
            _check_claim(claimed, len(content))
        content += chunk
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def _header_reader(version: tuple[int, int]) -> Callable:
    """Returns NumPy's reader of a header: a shape, an order and a type."""
    if version == (1, 0):
        return npy.read_array_header_1_0
    if version == (2, 0):
        return npy.read_array_header_2_0
    raise ValueError(
        f"its format is {version[0]}.{version[1]}; expected an array of plain "
        "numbers, in the format 1.0 or 2.0"
    )


def _check_claim(claimed: int, held: int) -> None:
    """Raises a ValueError if an array claims more bytes than there are."""
    if claimed > held:
        raise ValueError(
            f"its header claims {claimed} bytes, and {held} are there"
        )


def _check_memory(claimed: int, count: int) -> None:
    """Raises a ValueError if an array is too large for this machine.

    The machine holds the array as it is stored, and twice as floats: whole,
    and split into two sets.
    """
    memory = find_memory()
    needed = claimed + 2 * count * torch.get_default_dtype().itemsize
    if needed > memory:
        raise ValueError(
            f"its array takes {needed / 2**30:.1f} GiB of memory, and this "
            f"machine has {memory / 2**30:.1f}: store fewer images"
        )
