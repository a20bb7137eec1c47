"""Data sets by name."""

from pathlib import Path

import torch

from pyro_vae.data.dataset import DataError, Dataset, split
from pyro_vae.data.downloads import (
    TORCHVISION,
    default_data_dir,
    load_torchvision,
)
from pyro_vae.data.files import load_file


def load(name: str | Path, data_dir: str | Path | None = None) -> Dataset:
    """Loads a data set by name, downloading it if need be and possible.

    Args:
        name: `mnist`, `fashion-mnist`, `kmnist`, `digits` (the 8 x 8 ones
            that scikit-learn ships), or the path of an `.npy` or `.npz` file,
            as a string or a `Path` (see `load_file`).
        data_dir: The folder of the data sets that torchvision downloads; by
            default `default_data_dir()`.

    Returns:
        The data set, on the CPU, in torch's default dtype.

    Raises:
        DataUnavailableError: If it is not on disk and cannot be downloaded.
        DataError: If a file is damaged, or there is no data set of that name.
    """
    name = str(name)
    if name in TORCHVISION:
        return load_torchvision(name, Path(data_dir or default_data_dir()))
    if name == "digits":
        return _load_digits()
    if name.endswith((".npy", ".npz")):
        return load_file(Path(name))
    raise DataError(
        f"data set is {name!r}; expected {', '.join(TORCHVISION)}, digits, or "
        "the path of an .npy or .npz file"
    )


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    images = torch.as_tensor(digits.data / 16, dtype=torch.get_default_dtype())
    return split("digits", images, torch.as_tensor(digits.target), (8, 8))
