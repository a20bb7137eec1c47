"""Data sets as tensors in memory, and minibatches of them."""

import contextlib
import hashlib
import io
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TORCHVISION = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
}
SPLIT_SEED = 0  # of the 80/20 split where a data set has no test set
# Of the images drawn once and for all.
TRAIN_SEED, TEST_SEED, VALIDATION_SEED = 1, 2, 3
IDX_FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
MNIST_MD5 = {  # of the unpacked files; torchvision checks the packed ones
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class DataError(ValueError):
    """A data set is damaged or not what it should be."""


class DataUnavailableError(DataError):
    """A data set is neither on disk nor to be downloaded."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split into a training and a test set.

    Attributes:
        name: The data set's name, or its file's.
        train: Training images, `(N, D)`, floats in [0, 1].
        test: Test images, `(M, D)`.
        train_labels: `(N,)`, integers; None where there are none.
        test_labels: `(M,)`.
        image_shape: `(height, width)` or `(height, width, channels)`; its
            product is D.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None
    test_labels: Tensor | None
    image_shape: tuple[int, ...]

    @property
    def data_dim(self) -> int:
        """D, the number of pixels of an image."""
        return self.train.shape[1]

    def to(self, device: torch.device | str) -> "Dataset":
        """Returns the data set with its images on a device."""
        return replace(
            self, train=self.train.to(device), test=self.test.to(device)
        )

    def first(self, limit: int | None) -> "Dataset":
        """Returns the first `limit` images of either set, or all if None."""
        return replace(
            self,
            train=self.train[:limit],
            test=self.test[:limit],
            train_labels=_first(self.train_labels, limit),
            test_labels=_first(self.test_labels, limit),
        )

    def hold_out(self, fraction: float) -> tuple["Dataset", Tensor]:
        """Splits validation images off the training set, by a fixed seed.

        Args:
            fraction: The part of the training images, between 0 and 1, of
                which at least one image is held out and one is kept.

        Returns:
            The data set without them, and the validation images.

        Raises:
            DataError: If there is one training image only.
        """
        size = len(self.train)
        if size < 2:
            raise DataError(
                f"there are {size} training images; expected at least 2 to "
                "hold some out for validation"
            )
        count = min(max(round(fraction * size), 1), size - 1)
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        order = torch.randperm(size, generator=generator)
        kept = order[count:].sort().values
        labels = self.train_labels
        rest = replace(
            self,
            train=self.train[kept],
            train_labels=None if labels is None else labels[kept],
        )
        return rest, self.train[order[:count]]

    def binarize(self, how: str) -> "Dataset":
        """Returns the data set with binary images, drawn from the grey ones.

        Each draw has a fixed seed of its own, so that every run is trained
        and tested on the same images. Binary images stay what they are.

        Args:
            how: `none`, nothing is drawn; `static`, either set once; `dynamic`,
                the test set once: the training set is for `draw_binary` to
                draw anew in each epoch.
        """
        if how == "none":
            return self
        train = self.train
        if how == "static":
            train = draw_once(train, TRAIN_SEED)
        return replace(self, train=train, test=draw_once(self.test, TEST_SEED))

    @property
    def is_binary(self) -> bool:
        """Whether every pixel of the test set is 0 or 1."""
        return bool(((self.test == 0) | (self.test == 1)).all())

    def describe(self) -> dict:
        """Returns what a run's files say of the data, JSON-able."""
        return {
            "name": self.name,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "train_mean": self.train.mean(dtype=torch.float64).item(),
            "test_mean": self.test.mean(dtype=torch.float64).item(),
            "image_shape": list(self.image_shape),
        }


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Loads a data set by name, downloading it if need be and possible.

    Args:
        name: `mnist`, `fashion-mnist`, `kmnist`, `digits`, or the path of an
            `.npy` or `.npz` file (see `load_file`).
        data_dir: Where torchvision keeps its files; by default
            `default_data_dir()`.

    Returns:
        The data set, on the CPU, in torch's default dtype.

    Raises:
        DataUnavailableError: If it is not on disk and cannot be downloaded.
        DataError: If a file is damaged or there is no such data set.
    """
    if name in TORCHVISION:
        return _load_torchvision(name, Path(data_dir or default_data_dir()))
    if name == "digits":
        return _load_digits()
    if name.endswith((".npy", ".npz")):
        return load_file(Path(name))
    raise DataError(
        f"data set is {name!r}; expected {', '.join(TORCHVISION)}, digits, or "
        "the path of an .npy or .npz file"
    )


def default_data_dir() -> Path:
    """`PYRO_VAE_DATA` if it is set, else a cache folder in the user's home."""
    if folder := os.environ.get("PYRO_VAE_DATA"):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pyro_vae"


def load_file(path: Path) -> Dataset:
    """Loads the user's own images, split 80/20 with a fixed seed.

    Args:
        path: An `.npy` file of an array `(N, ...)`, or an `.npz` file with
            that array as `images` (or as its only one) and, if it likes,
            `labels`, `(N,)` integers. Images are floats in [0, 1], or uint8,
            which are divided by 255.

    Raises:
        DataError: If the file is missing or unreadable, or an array has the
            wrong shape or range, or holds NaN.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = (
                {"images": content}
                if isinstance(content, np.ndarray)
                else {key: content[key] for key in content.files}
            )
    except Exception as error:  # NumPy raises a dozen kinds for bad files
        raise DataError(
            f"{path} cannot be read as a NumPy file: {error}"
        ) from None
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
    return _split(path.name, images, labels, image_shape)


def draw_binary(images: Tensor) -> Tensor:
    r"""Draws binary images, each pixel white as often as it is bright.

    .. math:: x_d \sim \operatorname{Bernoulli}(\text{images}_d)

    The draws come from torch's global generator of the images' device.

    Args:
        images: Floats in [0, 1].

    References:
        On the quantitative analysis of deep belief networks, R. Salakhutdinov
        and I. Murray, 2008.
    """
    return torch.bernoulli(images)


def draw_once(images: Tensor, seed: int) -> Tensor:
    """Draws binary images, the same on every device and in every dtype.

    Binary images stay what they are.

    Args:
        images: Floats in [0, 1].
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(images.shape, generator=generator, dtype=torch.float32)
    return (uniform.to(images.device) < images).to(images)


def minibatches(num_data: int, batch_size: int) -> Iterator[Tensor]:
    """Yields the places of every image once, `(B,)`, in random order.

    The last minibatch may be smaller. The order is drawn at the first one,
    from torch's global generator of the CPU, so that it is the same on every
    device.

    Args:
        num_data: N, the number of images.
        batch_size: B.
    """
    yield from torch.randperm(num_data).split(batch_size)


def _load_torchvision(name: str, root: Path) -> Dataset:
    from torchvision import datasets

    kind = getattr(datasets, TORCHVISION[name])
    folder = root / TORCHVISION[name] / "raw"
    if not all((folder / file).is_file() for file in IDX_FILES):
        _download(kind, name, root)
    for file in IDX_FILES:
        _check_idx(folder / file, name)
    train, test = (kind(root, train=is_train) for is_train in (True, False))
    return Dataset(
        name,
        _to_unit_interval(train.data),
        _to_unit_interval(test.data),
        train.targets,
        test.targets,
        (28, 28),
    )


def _download(kind: type, name: str, root: Path) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            kind(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataUnavailableError(
            f"{name} is not in {root} and cannot be downloaded ({reason}): "
            "name the folder that holds it with --data-dir or PYRO_VAE_DATA"
        ) from None


def _check_idx(path: Path, name: str) -> None:
    """Refuses a file that is not the whole of the data set's part."""
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


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.as_tensor(digits.data / 16, dtype=torch.get_default_dtype())
    return _split("digits", images, torch.as_tensor(digits.target), (8, 8))


def _split(
    name: str,
    images: Tensor,
    labels: Tensor | None,
    image_shape: tuple[int, ...],
) -> Dataset:
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(images), generator=generator)
    train, test = order.split([len(order) - len(order) // 5, len(order) // 5])
    return Dataset(
        name,
        images[train],
        images[test],
        None if labels is None else labels[train],
        None if labels is None else labels[test],
        image_shape,
    )


def _check_images(path: Path, array: np.ndarray) -> Tensor:
    if array.ndim < 2 or len(array) < 5 or math.prod(array.shape[1:]) < 1:
        raise DataError(
            f"images in {path} have shape {array.shape}; expected (N, ...) "
            "with at least 5 images"
        )
    if array.dtype == np.uint8:
        return _to_unit_interval(torch.as_tensor(array))
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
    """The shape to draw an image in, of the shape it was stored in."""
    if len(shape) == 3 and shape[2] == 1:
        return shape[:2]
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return shape
    size = math.prod(shape)
    side = math.isqrt(size)
    return (side, side) if side * side == size else (1, size)


def _to_unit_interval(images: Tensor) -> Tensor:
    """Turns bytes `(N, ...)` into floats `(N, D)`, 255 into 1."""
    return images.flatten(1).to(torch.get_default_dtype()).div_(255)


def _first(labels: Tensor | None, limit: int | None) -> Tensor | None:
    return None if labels is None else labels[:limit]
