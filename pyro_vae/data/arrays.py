"""Arrays of NumPy's files: only those that are wanted, and none that lies.

A file's header says how large its array is. It is held against what the file
holds, and against the machine's memory, before anything is allocated.
"""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.lib import format as npy

from pyro_vae.data.parts import find_parts
from pyro_vae.machine import find_memory

MAX_HEADER = 10_000  # bytes; NumPy reads no longer ones
CHUNK = 1 << 20  # bytes


def read_npy(path: Path) -> np.memmap:
    """Returns the array of an `.npy` file, which stays on the disk.

    Raises:
        ValueError: If its header is none, or claims more than the file holds.
    """
    with open(path, "rb") as file:
        shape, is_fortran, dtype, start = _read_header(
            file, path.stat().st_size
        )
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)  # type: ignore[return-value]
        return np.memmap(path, dtype, "r", start, shape, order)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the images and labels of an `.npz` file, and reads no more.

    Returns:
        Arrays by their part, as `find_parts` names them.

    Raises:
        DataError: If there are no images.
        ValueError: If an array claims more than its file or the machine holds.
    """
    with zipfile.ZipFile(path) as archive:
        names = [
            name.removesuffix(".npy")
            for name in archive.namelist()
            if name.endswith(".npy")
        ]
        found = {}
        for part, name in find_parts(path, names).items():
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                found[part] = _read_array(file, member.file_size)
        return found


def is_npy(path: Path) -> bool:
    """Returns whether a file begins as an `.npy` file does."""
    with open(path, "rb") as file:
        return file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Returns the array of an open `.npy` file that says it has `size` bytes.

    Raises:
        ValueError: If its header is none, or claims too much.
    """
    shape, is_fortran, dtype, start = _read_header(file, size)
    claimed = math.prod(shape) * dtype.itemsize
    _check_memory(claimed)
    file.seek(start)
    # A zip file may lie about its members' sizes: memory is taken for what has
    # been read, and not for what is claimed.
    content = bytearray()
    while len(content) < claimed:
        chunk = file.read(min(CHUNK, claimed - len(content)))
        if not chunk:
            _check_claim(claimed, len(content))
        content += chunk
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def _read_header(
    file: IO[bytes], size: int
) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Returns an array's shape, whether it has Fortran's order, type and start.

    Raises:
        ValueError: If it is no header, or claims more than `size` bytes.
    """
    head = io.BytesIO(file.read(MAX_HEADER))
    shape, is_fortran, dtype = _header_reader(npy.read_magic(head))(head)
    if dtype.hasobject:
        raise ValueError("it holds Python objects; expected numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"its header claims the shape {shape}")
    _check_claim(math.prod(shape) * dtype.itemsize, size - head.tell())
    return shape, is_fortran, dtype, head.tell()


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


def _check_memory(claimed: int) -> None:
    """Raises a ValueError if the machine cannot hold an array."""
    memory = find_memory()
    if claimed > memory / 2:
        raise ValueError(
            f"its array takes {claimed / 2**30:.1f} GiB of memory, and this "
            f"machine has {memory / 2**30:.1f}: store fewer images, or an .npy "
            "file, which is read from the disk"
        )
