"""Data sets that torchvision downloads, with checks of their files."""

import contextlib
import gzip
import hashlib
import io
import math
import os
import struct
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset, to_unit_interval
from pyro_vae.data.errors import DataError
from pyro_vae.files import find_cache, write_atomically

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
# Checksums of the unpacked files, as `git hash-object` prints them. torchvision
# has those of the packed ones alone, and checks them only when it downloads.
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "bbce27659e0fc2b7ed2a64c127849380a477099b",
        "train-labels-idx1-ubyte": "d6b4c5db3b52063d543fb397aede09aba0dc5234",
        "t10k-images-idx3-ubyte": "1170b2cae98de7a524b163fcc379ac8f00925b12",
        "t10k-labels-idx1-ubyte": "d1c3a970612bbd2df47a3c0697f82bd394abc450",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "ff2f5a96367a3c1656f09c93649f07143ff8b11e",
        "train-labels-idx1-ubyte": "30424ca2ea876655f5bba14f9f07132769687975",
        "t10k-images-idx3-ubyte": "37bac79bc6f002d965f363e0b20514904504a4d9",
        "t10k-labels-idx1-ubyte": "2195a4d0957e013db98d03e51697e2315816cce2",
    },
    "kmnist": {
        "train-images-idx3-ubyte": "3cf037df1ccd08cf71c7e9465ca6bc729e79a251",
        "train-labels-idx1-ubyte": "180cd088d65c3b75d97d046ad75476d1176666e0",
        "t10k-images-idx3-ubyte": "1adcabe5a6e822ca4ae03c51ca387e9ca736ad11",
        "t10k-labels-idx1-ubyte": "6e9269c40e2642f2ac5bda1536e4a56c582e5be1",
    },
}
# Of the sets that torchvision asks for over plain http alone.
HTTPS_MIRRORS = {
    "fashion-mnist": "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    "kmnist": "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
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

    The four files in `raw` are checked, and nothing else is read: not the
    tensors that an old torchvision left in `processed` beside it.

    Args:
        name: A key of `TORCHVISION`.
        root: The folder that holds, or will hold, a folder of each data set.

    Raises:
        DataUnavailableError: If it is not there and cannot be downloaded.
        DataError: If a file is damaged, or is another data set's.
    """
    # Loading torchvision takes as long as loading torch, and digits need none.
    from torchvision import datasets

    theirs = getattr(datasets, TORCHVISION[name])
    folder = root / TORCHVISION[name] / "raw"
    packed_md5 = dict(theirs.resources)
    missing = {
        f"{file}.gz": packed_md5[f"{file}.gz"]
        for file in IDX_FILES
        if not (folder / file).is_file()
    }
    if missing:
        _download(name, folder, missing, theirs.mirrors)
    train, train_labels, test, test_labels = (
        _read_idx(folder / file, name, packed_md5[f"{file}.gz"])
        for file in IDX_FILES
    )
    return Dataset(
        name,
        to_unit_interval(train),
        to_unit_interval(test),
        train_labels.long(),
        test_labels.long(),
        (28, 28),
    )


def _download(
    name: str, folder: Path, packed_md5: dict[str, str], mirrors: list[str]
) -> None:
    """Downloads packed files and unpacks them, encrypted where possible.

    Args:
        name: The data set's name.
        folder: The folder that the files are put into.
        packed_md5: The MD5 checksum of each packed file, by its name.
        mirrors: The addresses that torchvision knows, each ending with a slash.
    """
    ours = [HTTPS_MIRRORS[name]] if name in HTTPS_MIRRORS else []
    encrypted_first = sorted(
        [*ours, *mirrors], key=lambda mirror: not mirror.startswith("https:")
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, md5 in packed_md5.items():
            _fetch(file, md5, folder, encrypted_first)
            content = gzip.decompress((folder / file).read_bytes())
            write_atomically(folder / file.removesuffix(".gz"), content)
    except OSError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataUnavailableError(
            f"{name} is not in {folder} and cannot be downloaded ({reason}): "
            "put its four files there, or set PYRO_VAE_DATA to the folder that "
            f"holds {folder.parent.name}/raw, or give that folder as data_dir"
        ) from None


def _fetch(file: str, md5: str, folder: Path, mirrors: list[str]) -> None:
    """Downloads a file from the first mirror that has it.

    Raises:
        OSError: If none has it: the reason of the last one.
    """
    from torchvision.datasets import utils

    reason = "there is no mirror"
    for mirror in mirrors:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # its progress
                utils.download_url(mirror + file, str(folder), file, md5)
            return
        except (OSError, RuntimeError, HTTPException) as error:
            reason = f"{mirror}: {str(error) or type(error).__name__}"
    raise OSError(reason)


def _read_idx(path: Path, name: str, packed_md5: str) -> Tensor:
    """Returns the bytes of a file of a data set, in its shape, once checked.

    Args:
        path: The unpacked file.
        name: The data set's name.
        packed_md5: The MD5 checksum of the packed file.

    Raises:
        DataError: If it is damaged, or another data set's.
    """
    shape = IDX_FILES[path.name]
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    expected = len(header) + math.prod(shape)
    fault = None
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size == expected else b""
        if len(content) != expected:
            fault = f"has {size} bytes, expected {expected}"
        elif not content.startswith(header):
            fault = "does not start like an IDX file of the expected shape"
        else:
            fault = _find_fault(content, path, name, packed_md5)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): make it readable"
        ) from None
    if fault:
        raise DataError(
            f"{path} is damaged: it {fault}; delete it, and {path.name}.gz "
            "beside it, to have it downloaded again"
        )
    array = np.frombuffer(content, np.uint8, offset=len(header))
    return torch.tensor(array.reshape(shape))


def _find_fault(
    content: bytes, path: Path, name: str, packed_md5: str
) -> str | None:
    """Returns why a file is not the data set's; None if it is.

    It is if it has the right checksum, or if the packed file lies beside it,
    has the checksum that torchvision asks for, and holds just this.
    """
    checksum = git_hash(content)
    for owner, checksums in CHECKSUMS.items():
        if checksums[path.name] == checksum:
            return None if owner == name else f"is a file of {owner}"
    archive = path.with_name(f"{path.name}.gz")
    if archive.is_file():
        packed = archive.read_bytes()
        md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
        if md5 == packed_md5 and gzip.decompress(packed) == content:
            return None
    return "does not match its checksum"


def git_hash(content: bytes) -> str:
    """Returns the checksum of a file's bytes that git knows the file by."""
    head = b"blob %d\0" % len(content)
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
