"""A reader for each kind of file that people keep images and tables in."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data.arrays import is_npy, read_npy, read_npz
from pyro_vae.data.errors import DataError
from pyro_vae.data.folders import read_folder
from pyro_vae.data.idx import is_idx, read_idx
from pyro_vae.data.parts import Found, find_parts
from pyro_vae.data.reading import Options

MAX_REASON = 200  # characters of a library's own words


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        about: What sentences call it.
        read: Its reader.
        package: The package that it takes beyond those of a fit, if any.
    """

    about: str
    read: Callable[[Path, Options], Found]
    package: str | None = None


def read(path: Path, options: Options) -> Found:
    """Reads a file or a folder of the user's own.

    Raises:
        DataError: If it is not there, is of no known kind, cannot be read, or
            takes a package that is not installed.
    """
    if not path.exists():
        raise DataError(f"there is no file {path}")
    kind = _find_format(path)
    if kind.package is not None:
        try:
            importlib.import_module(kind.package)
        except ImportError:
            raise DataError(
                f"{path} is {kind.about}, which takes the package "
                f"{kind.package}, and that is not installed: python -m pip "
                f"install {kind.package}"
            ) from None
    try:
        return kind.read(path, options)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # each library raises its own kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as {kind.about}: {reason[:MAX_REASON]}"
        ) from None


def _find_format(path: Path) -> Format:
    if path.is_dir() and path.suffix != ".zarr":
        return FOLDER
    if path.is_file() and is_idx(path):
        return IDX
    if path.suffix.lower() in FORMATS:
        return FORMATS[path.suffix.lower()]
    raise DataError(
        f"{path} is of no kind that can be read; expected a folder of images, "
        f"an IDX file, or a file that ends in {', '.join(FORMATS)}"
    )


def _read_numpy(path: Path, options: Options) -> Found:
    if is_npy(path):
        return Found({"train": read_npy(path)})
    return Found(read_npz(path))


def _read_hdf5(path: Path, options: Options) -> Found:
    import h5py

    file = h5py.File(path, "r")  # open as long as its arrays are
    names = [name for name in file if isinstance(file[name], h5py.Dataset)]
    parts = find_parts(path, names)
    return Found({part: _small(file[name]) for part, name in parts.items()})


def _read_zarr(path: Path, options: Options) -> Found:
    import zarr

    opened: Any = zarr.open(str(path), mode="r")
    if not hasattr(opened, "array_keys"):
        return Found({"train": opened})
    parts = find_parts(path, sorted(opened.array_keys()))
    return Found({part: _small(opened[name]) for part, name in parts.items()})


def _small(array: Any) -> Any:
    """Returns an array; labels, which have one dimension, are read."""
    return array[:] if len(array.shape) == 1 else array


def _read_anndata(path: Path, options: Options) -> Found:
    import anndata

    found = anndata.read_h5ad(path, backed="r")
    parts = {"train": found.X}
    column = options.label_column
    if column is not None:
        _check_column(path, column, found.obs.columns)
        parts["train_labels"] = found.obs[column].astype(str).to_numpy()
    about = f"the {found.n_vars} variables of X"
    return Found(parts, about, is_table=True)


def _read_csv(path: Path, options: Options) -> Found:
    import pandas as pd

    return _read_table(path, pd.read_csv(path), options)


def _read_parquet(path: Path, options: Options) -> Found:
    import pandas as pd

    return _read_table(path, pd.read_parquet(path), options)


def _read_table(path: Path, table: Any, options: Options) -> Found:
    """Returns the columns of numbers as x, and one column as the labels."""
    label = options.label_column
    numbers = table.select_dtypes(["number", "bool"]).columns
    others = [name for name in table.columns if name not in numbers]
    if label is None and len(others) == 1:
        label = others.pop()
    if label is not None:
        _check_column(path, label, table.columns)
        numbers = numbers.drop(label, errors="ignore")
        others = [name for name in others if name != label]
    if others or not len(numbers):
        raise DataError(
            f"{path} has the columns {', '.join(map(str, others[:5]))} of "
            "text; expected numbers, and at most one column of labels: name it "
            "by the option label_column, and leave the others out"
        )
    values = table[numbers]
    holes = values.isna()
    _check_holes(path, holes, options)
    whole = all(kind.kind in "iub" for kind in values.dtypes)
    if whole and not holes.to_numpy().any():
        x = values.to_numpy(np.int64)
    else:
        x = values.to_numpy(np.float64, na_value=np.nan)
    said = f"{len(numbers)} columns of numbers"
    if options.scale == "columns":
        low, high = np.nanmin(x, 0), np.nanmax(x, 0)
        x = (x - low) / np.where(high > low, high - low, 1)
        said += ", each brought from its own range to [0, 1]"
    parts: dict[str, Any] = {"train": x}
    if label is not None:
        parts["train_labels"] = table[label].to_numpy()
        said += f", labels from the column {label}"
    return Found(parts, said, True, options.scale == "columns")


def _check_holes(path: Path, holes: Any, options: Options) -> None:
    """Refuses a table with holes, unless they are not observed values."""
    empty = [str(name) for name in holes.columns[holes.all()]]
    if options.missing and empty:
        raise DataError(
            f"{path} has no value in {', '.join(empty[:5])}; expected some in "
            "each column: leave those out"
        )
    if holes.to_numpy().any() and not options.missing:
        of = ", ".join(str(name) for name in holes.columns[holes.any()][:5])
        raise DataError(
            f"{path} has {int(holes.sum().sum())} cells without a number, in "
            f"{of}; expected none: leave those rows out, or give missing=True, "
            "with which they were not observed"
        )


def _check_column(path: Path, column: str, columns: Any) -> None:
    if column not in columns:
        listed = ", ".join(map(str, list(columns)[:10])) or "(none)"
        raise DataError(
            f"label_column is {column!r}; expected one of {path}: {listed}"
        )


FOLDER = Format("a folder of images", lambda p, o: Found(*read_folder(p, o)))
IDX = Format("an IDX file", lambda p, o: Found(read_idx(p)))
FORMATS = {
    ".npy": Format("a NumPy file", _read_numpy),
    ".npz": Format("a NumPy file", _read_numpy),
    ".h5": Format("an HDF5 file", _read_hdf5, "h5py"),
    ".hdf5": Format("an HDF5 file", _read_hdf5, "h5py"),
    ".zarr": Format("a zarr folder", _read_zarr, "zarr"),
    ".h5ad": Format("an AnnData file", _read_anndata, "anndata"),
    ".csv": Format("a CSV table", _read_csv),
    ".parquet": Format("a Parquet table", _read_parquet, "pyarrow"),
}
