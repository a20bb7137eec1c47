"""Data sets that torchvision downloads, with checks of their files."""

import contextlib
import hashlib
import io
import math
import os
import struct
from pathlib import Path

from pyro_vae.data.dataset import DataError, Dataset, to_unit_interval
from pyro_vae.files import find_cache

TORCHVISION = {  # the class in torchvision.datasets, by our name
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
}
IDX_FILES = {  # the shape of each file's array
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
# Checksums of the unpacked files: torchvision checks the packed ones alone, and
# only while it downloads them.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class DataUnavailableError(DataError):
    """A data set is not on disk, and it could not be downloaded."""


def default_data_dir() -> Path:
    """Returns the folder that data sets are kept in.

    It is the environment variable `PYRO_VAE_DATA` if that is set, else the
    package's cache folder.
    """
    folder = os.environ.get("PYRO_VAE_DATA")
    return Path(folder) if folder else find_cache()


def load_torchvision(name: str, root: Path) -> Dataset:
    """Loads one of torchvision's data sets, after downloading it if need be.

    Args:
        name: A key of `TORCHVISION`.
        root: The folder that holds, or will hold, a folder of each data set.

    Raises:
        DataUnavailableError: If it is not there and cannot be downloaded.
        DataError: If a file is damaged.
    """
    # Loading torchvision takes as long as loading torch, and digits need none.
    from torchvision import datasets

    dataset_class = getattr(datasets, TORCHVISION[name])
    folder = root / TORCHVISION[name] / "raw"
    if not all((folder / file).is_file() for file in IDX_FILES):
        _download(dataset_class, name, root)
    for file in IDX_FILES:
        _check_idx(folder / file, name)
    train = dataset_class(root, train=True)
    test = dataset_class(root, train=False)
    return Dataset(
        name,
        to_unit_interval(train.data),
        to_unit_interval(test.data),
        train.targets,
        test.targets,
        (28, 28),
    )


def _download(dataset_class: type, name: str, root: Path) -> None:
    try:
        # torchvision prints its progress.
        with contextlib.redirect_stdout(io.StringIO()):
            dataset_class(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataUnavailableError(
            f"{name} is not in {root} and cannot be downloaded ({reason}): "
            "set PYRO_VAE_DATA to the folder that holds it, or give that "
            "folder as data_dir"
        ) from None


def _check_idx(path: Path, name: str) -> None:
    """Raises a DataError unless a file is whole and holds what it should."""
    shape = IDX_FILES[path.name]
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    content = path.read_bytes()
    expected = len(header) + math.prod(shape)
    fault = None
    if len(content) != expected:
        fault = f"has {len(content)} bytes, expected {expected}"
    elif not content.startswith(header):
        fault = "does not start like an IDX file of the expected shape"
    elif name == "mnist" and (
        hashlib.md5(content, usedforsecurity=False).hexdigest()
        != MNIST_MD5[path.name]
    ):
        fault = "does not match its MD5 checksum"
    if fault:
        raise DataError(
            f"{path} is damaged: it {fault}; delete it, and {path.name}.gz "
            "beside it, to have it downloaded again"
        )
