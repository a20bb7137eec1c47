"""Binary MNIST as it was drawn once and for all, from the user's files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.errors import DataError

START = "binarized_mnist_"
NAME = "mnist-larochelle"  # other images than those drawn by this package
SIZE = 784  # pixels of an image
ENDINGS = (".amat", ".npy")


def load_fixed_binary(path: Path) -> Dataset:
    """Loads the binary MNIST that Larochelle drew.

    It is 50,000 images for training, 10,000 for validation, which are added to
    them, and 10,000 for testing, without labels.

    Args:
        path: The folder of the files `binarized_mnist_train.amat`,
            `binarized_mnist_valid.amat` and `binarized_mnist_test.amat`, or
            the first of them. They may also be `.npy`.

    Raises:
        DataError: If a file is missing, or is no binary MNIST.

    References:
        The neural autoregressive distribution estimator, H. Larochelle and I.
        Murray, 2011.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise DataError(
            f"there is no {path}; expected the folder of {START}train.amat and "
            "the two files beside it"
        )
    parts = [_read(_find(folder, part)) for part in ("train", "valid", "test")]
    train, valid, test = parts
    return Dataset(
        NAME,
        torch.cat([train, valid]),
        test,
        image_shape=(28, 28),
        reading=(
            "binary images as Larochelle drew them, no draws of this package; "
            f"{len(valid)} images for validation added to training"
        ),
    )


def _find(folder: Path, part: str) -> Path:
    for ending in ENDINGS:
        path = folder / f"{START}{part}{ending}"
        if path.is_file():
            return path
    raise DataError(
        f"{folder} has no file {START}{part}.amat or .npy; expected all of "
        f"{START}train, {START}valid and {START}test"
    )


def _read(path: Path) -> Tensor:
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:  # a text of zeros and ones, with a space between them
            array = np.loadtxt(path, dtype=np.uint8, ndmin=2)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read: {reason}") from None
    array = array.reshape(len(array), -1)
    is_binary = array.shape[1:] == (SIZE,) and np.isin(array, (0, 1)).all()
    if not is_binary:
        raise DataError(
            f"{path} has the shape {array.shape} and values from "
            f"{array.min()} to {array.max()}; expected rows of {SIZE} zeros "
            "and ones"
        )
    return torch.as_tensor(array, dtype=torch.get_default_dtype())
