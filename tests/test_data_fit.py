"""Fits to data of every source, in memory and read as they are asked for."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from pyro_vae import Config, FitConfig, build, fit
from pyro_vae.data import (
    DataError,
    Dataset,
    Rows,
    load_fixed_binary,
    rows,
    to_dataset,
)
from pyro_vae.runs.run import load_data, load_run
from tests.models import without_timing

SMALL = Config(
    hidden=(8,), epochs=2, batch_size=16, device="cpu", engine="eager"
)
FIT = FitConfig(epochs=2, batch_size=16, device="cpu", engine="eager")


def make(data_dim=24, config=SMALL):
    torch.manual_seed(0)
    return build(config, data_dim)


def records_of(data, config=FIT, vae=None, **options):
    fitted = fit(vae or make(), data, config, **options)
    return without_timing(list(fitted))


def read_lazily(tensor):
    return Rows(lambda index: tensor[torch.from_numpy(index)], *tensor.shape)


@pytest.fixture
def images(rng):
    return torch.as_tensor(rng.integers(0, 256, (60, 4, 6), np.uint8))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_fit_takes_what_holds_images(images):
    expected = records_of(to_dataset(images))
    labels = torch.arange(60)
    floats = images.flatten(1).double() / 255
    for data in (
        images,
        images.numpy(),
        TensorDataset(images, labels),
        floats,
        floats.numpy(),
    ):
        assert records_of(data) == expected


def test_images_that_are_read_as_asked_for_take_the_same_steps(images):
    data = to_dataset(images)
    lazy = replace(data, train=read_lazily(data.train))
    assert records_of(lazy) == records_of(data)


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_and_resume_exactly(images, tmp_path, binarize):
    config = replace(SMALL, binarize=binarize, likelihood="bernoulli")
    data = to_dataset(images)
    lazy = replace(data, train=read_lazily(data.train))
    whole = records_of(lazy, config, make(config=config))
    steps = []
    first = fit(
        make(config=config),
        lazy,
        config,
        tmp_path / "run",
        on_step=lambda step, elbo: steps.append(step),
        stop=lambda: len(steps) == 4,  # in the second epoch
    )
    begun = without_timing(list(first))
    vae = make(config=config)
    rest = records_of(lazy, config, vae, folder=tmp_path / "run", resume=True)
    assert begun + rest == whole and len(rest) == 1


def test_early_stopping_holds_out_of_them(images):
    config = replace(FIT, early_stopping=1, validation_fraction=0.3)
    data = to_dataset(images)
    lazy = replace(data, train=read_lazily(data.train))
    records = records_of(lazy, config)
    assert all("validation_elbo" in record for record in records)


def test_a_run_of_a_file_is_read_back(tmp_path, images, monkeypatch):
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    np.save(tmp_path / "own.npy", images.numpy())
    config = replace(SMALL, dataset=str(tmp_path / "own.npy"))
    data = load_data(config)
    assert isinstance(data.train, Rows)
    vae = make(config=config)
    records_of(data, config, vae, folder=tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.data.describe() == data.describe()
    assert torch.equal(run.vae.infer(data.test).mean, vae.infer(data.test).mean)


def write_larochelle(folder, ending, sizes=(6, 3, 4)):
    rng = np.random.default_rng(1)
    parts = {}
    for part, size in zip(("train", "valid", "test"), sizes, strict=True):
        parts[part] = rng.integers(0, 2, (size, 784))
        path = folder / f"binarized_mnist_{part}{ending}"
        if ending == ".npy":
            np.save(path, parts[part].reshape(size, 28, 28).astype(np.uint8))
        else:
            np.savetxt(path, parts[part], fmt="%d")
    return parts


@pytest.mark.parametrize("ending", [".amat", ".npy"])
def test_binary_mnist_as_larochelle_drew_it(tmp_path, ending):
    parts = write_larochelle(tmp_path, ending)
    for path in (tmp_path, tmp_path / f"binarized_mnist_train{ending}"):
        data = load_fixed_binary(path)
        assert data.name == "mnist-larochelle" and data.is_binary
        expected = np.concatenate([parts["train"], parts["valid"]])
        assert torch.equal(data.train, torch.as_tensor(expected).double())
        assert torch.equal(data.test, torch.as_tensor(parts["test"]).double())


def test_other_files_are_no_binary_mnist(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*missing"):
        load_fixed_binary(tmp_path / "missing.amat")
    write_larochelle(tmp_path, ".amat")
    path = tmp_path / "binarized_mnist_test.amat"
    path.write_text("0 1 2\n")
    with pytest.raises(DataError, match=r"test\.amat has the shape \(1, 3\)"):
        load_fixed_binary(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="has no file binarized_mnist_test"):
        load_fixed_binary(tmp_path)
    with pytest.raises(ValueError, match="with static_binarization"):
        Config(
            static_binarization="x", likelihood="bernoulli", binarize="static"
        )
    with pytest.raises(ValueError, match="with static_binarization"):
        Config(static_binarization="x", dataset="digits")


LARGE = """
import sys
from pathlib import Path
import numpy as np
from numpy.lib import format as npy
from pyro_vae import Config, build, fit
from pyro_vae.data import load

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1000

path = Path(sys.argv[1])
shape = (25_600_000, 784)  # 20 GB, of which the disk holds 0.8 MB
with open(path, "wb") as file:
    header = {"shape": shape, "fortran_order": False, "descr": "|u1"}
    npy.write_array_header_1_0(file, header)
    file.truncate(file.tell() + shape[0] * shape[1])
some = np.load(path, mmap_mode="r+")
some[::25600] = np.random.default_rng(0).integers(0, 256, (1000, 784), np.uint8)
before = anonymous()  # what the libraries hold
data = load(path)
held = []
vae = build(Config(), data.data_dim)
config = Config(epochs=1, engine="compiled", device="cpu")
records = fit(
    vae, data, config, on_step=lambda *step: held.append(anonymous()),
    stop=lambda: len(held) == 50,
)
assert len(list(records)) == 1 and len(held) == 50
print(max(held) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_20_gb_are_fitted_in_600_mb(tmp_path):
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large.npy")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 600


def test_labels_and_names_are_optional():
    data = Dataset("own", torch.rand(6, 9), torch.rand(2, 9))
    assert data.image_shape == (3, 3) and data.train_labels is None
    row = Dataset("own", torch.rand(6, 10), torch.rand(2, 10))
    assert row.image_shape == (1, 10)
