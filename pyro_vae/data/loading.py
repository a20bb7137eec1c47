"""Data sets by name."""

from pathlib import Path

import torch

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.downloads import (
    TORCHVISION,
    default_data_dir,
    load_torchvision,
)
from pyro_vae.data.errors import DataError
from pyro_vae.data.making import make_dataset, printable
from pyro_vae.data.readers import FORMATS, read
from pyro_vae.data.reading import Options
from pyro_vae.data.splitting import split


def load(
    name: str | Path,
    data_dir: str | Path | None = None,
    options: Options | None = None,
) -> Dataset:
    """Loads a data set by name, downloading it if need be and possible.

    Args:
        name: `mnist`, `fashion-mnist`, `kmnist`, `digits` (the 8 x 8 ones
            that scikit-learn ships), or the path of a file or folder of one's
            own, as a string or a `Path` (see `load_file`).
        data_dir: The folder of the data sets that torchvision downloads; by
            default `default_data_dir()`.
        options: How a file or folder is read.

    Returns:
        The data set, on the CPU, in torch's default dtype.

    Raises:
        DataUnavailableError: If it is not on disk and cannot be downloaded.
        DataError: If a file is damaged, or there is no data set of that name.
    """
    if str(name) in TORCHVISION:
        root = Path(data_dir or default_data_dir())
        return load_torchvision(str(name), root)
    if str(name) == "digits":
        return _load_digits()
    path = Path(name)
    if path.exists() or path.suffix.lower() in FORMATS:
        return load_file(path, options)
    raise DataError(
        f"data set is {str(name)!r}; expected {', '.join(TORCHVISION)}, "
        "digits, or the path of a folder of images or of a file that ends in "
        f"{', '.join(FORMATS)}"
    )


def load_file(path: Path, options: Options | None = None) -> Dataset:
    """Loads images, or a table, from a file or folder of the user's own.

    Images are `(N, height, width)`, or with 1 or 3 channels first or last, or
    rows `(N, D)`. Bytes are divided by 255; booleans, and integers of 0 and 1
    alone, are binary images; floats are in [0, 1]. Where there is no test set,
    a fifth of the images becomes one, by a fixed seed. Images that take more
    than 1 GiB as floats stay in their file until a minibatch asks for them.

    Args:
        path: A file of one of `FORMATS`, an IDX file, or a folder of images.
        options: How it is read, where that can be done in several ways.

    Raises:
        DataError: If the file is missing or unreadable, or an array has the
            wrong shape, type or range, or holds NaN.
    """
    options = options or Options()
    found = read(path, options)
    return make_dataset(printable(path.name), str(path), found, options)


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    images = torch.as_tensor(digits.data / 16, dtype=torch.get_default_dtype())
    return split("digits", images, torch.as_tensor(digits.target), (8, 8))
