"""Data sets as tensors in memory, and minibatches of them."""

from pyro_vae.data.dataset import VALIDATION_SEED, DataError, Dataset
from pyro_vae.data.downloads import DataUnavailableError, default_data_dir
from pyro_vae.data.draws import draw_binary, draw_once, minibatches
from pyro_vae.data.files import load_file
from pyro_vae.data.loading import load

__all__ = [
    "VALIDATION_SEED",
    "DataError",
    "DataUnavailableError",
    "Dataset",
    "default_data_dir",
    "draw_binary",
    "draw_once",
    "load",
    "load_file",
    "minibatches",
]
