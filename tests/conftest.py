"""Every test runs in float64, from a fixed seed, in a clean param store."""

import os
from pathlib import Path

import pyro
import pytest
import torch

from pyro_vae import Config, build
from pyro_vae.data import Dataset, load

# A worker for each core, and a thread for each worker and its children.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def exact_and_isolated():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    with pyro.get_param_store().scope():
        yield
    torch.set_default_dtype(default)


@pytest.fixture
def digits() -> Dataset:
    return load("digits")


@pytest.fixture
def small_vae():
    """A VAE on 8 x 8 images, small enough for sums over everything."""
    return build(Config(hidden=(16,), noise_scale=0.4), data_dim=64)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the real MNIST; tests that need it say so where not."""
    folder = Path(os.environ.get("PYRO_VAE_DATA", ""))
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("no MNIST on disk: set PYRO_VAE_DATA to its folder")
    return folder.resolve()
