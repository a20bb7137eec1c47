"""Data sets of tensors, files or anything indexable, and their minibatches."""

from pyro_vae.data.dataset import VALIDATION_SEED, Dataset
from pyro_vae.data.downloads import DataUnavailableError, default_data_dir
from pyro_vae.data.draws import draw_binary, draw_once, minibatches
from pyro_vae.data.errors import DataError
from pyro_vae.data.fixed_binary import load_fixed_binary
from pyro_vae.data.loading import load, load_file
from pyro_vae.data.making import to_dataset
from pyro_vae.data.reading import Options
from pyro_vae.data.rows import Rows

__all__ = [
    "VALIDATION_SEED",
    "DataError",
    "DataUnavailableError",
    "Dataset",
    "Options",
    "Rows",
    "default_data_dir",
    "draw_binary",
    "draw_once",
    "load",
    "load_file",
    "load_fixed_binary",
    "minibatches",
    "to_dataset",
]
