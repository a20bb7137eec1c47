import struct

import numpy as np
import pytest
import torch
from torchvision import datasets

from pyro_vae.data import (
    DataError,
    DataUnavailableError,
    default_data_dir,
    downloads,
    draw_binary,
    load,
    minibatches,
)
from pyro_vae.data.downloads import IDX_FILES, git_hash
from tests.statistics import assert_mean


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
        monkeypatch.setattr(kind, "mirrors", ["file:///nowhere/"])
    monkeypatch.setattr(downloads, "HTTPS_MIRRORS", {})


def write_idx(folder, name):
    shape = IDX_FILES[name]
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    body = np.zeros(int(np.prod(shape)), np.uint8)
    body[-1] = 255 if len(shape) == 3 else 3
    (folder / name).write_bytes(header + body.tobytes())


@pytest.fixture
def fake_raw(tmp_path, monkeypatch):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    checksums = downloads.CHECKSUMS["fashion-mnist"]
    for name in IDX_FILES:
        write_idx(folder, name)
        checksum = git_hash((folder / name).read_bytes())
        monkeypatch.setitem(checksums, name, checksum)
    return folder


def test_mnist_is_the_real_thing(mnist_dir):
    data = load("mnist", mnist_dir)
    assert data.train.shape == (60_000, 784) and data.test.shape[0] == 10_000
    assert data.image_shape == (28, 28) and data.data_dim == 784
    assert data.train.min() == 0 and data.train.max() == 1
    assert torch.bincount(data.test_labels).tolist()[:3] == [980, 1135, 1032]
    assert abs(data.train.mean() - 0.1307) < 1e-4  # the mean all quote


def test_torchvision_layout_read_only(fake_raw):
    root = fake_raw.parents[1]
    for path in fake_raw.iterdir():
        path.chmod(0o444)
    fake_raw.chmod(0o555)
    data = load("fashion-mnist", root)
    assert data.name == "fashion-mnist"
    assert data.train[-1, -1] == 1 and data.test_labels[-1] == 3


@pytest.mark.parametrize("name", IDX_FILES)
def test_a_truncated_file_is_named_with_what_to_delete(fake_raw, name):
    path = fake_raw / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"is damaged.*bytes.*delete it") as e:
        load("fashion-mnist", fake_raw.parents[1])
    assert str(path) in str(e.value)


def test_a_corrupt_file_is_named(fake_raw):
    path = fake_raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    with pytest.raises(DataError, match="does not start like an IDX file"):
        load("fashion-mnist", fake_raw.parents[1])


def test_mnist_is_held_to_its_checksums(fake_raw):
    path = fake_raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    fake_raw.parent.rename(fake_raw.parents[1] / "MNIST")
    with pytest.raises(DataError, match=r"train-images.* its checksum; delete"):
        load("mnist", fake_raw.parents[1])


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_no_data_and_no_network(tmp_path, name):
    with pytest.raises(DataUnavailableError, match="set PYRO_VAE_DATA to"):
        load(name, tmp_path)


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("PYRO_VAE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_data_dir() == tmp_path / "cache" / "pyro_vae"


def test_digits(digits):
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.image_shape == (8, 8)
    assert digits.train.max() == 1 and digits.train.dtype == torch.float64
    assert torch.equal(digits.train, load("digits").train)
    both = torch.cat([digits.train_labels, digits.test_labels])
    assert len(both) == 1797 and both.unique().tolist() == list(range(10))


def test_limit(digits):
    few = digits.first(5)
    assert torch.equal(few.train, digits.train[:5])
    assert len(few.test) == len(few.test_labels) == 5
    assert len(digits.first(None).train) == 1438


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((10, 4, 6), (4, 6)),
        ((10, 4, 6, 1), (4, 6)),
        ((10, 4, 6, 3), (3, 4, 6)),
        ((10, 3, 4, 6), (3, 4, 6)),
        ((10, 1, 4, 6), (4, 6)),
        ((10, 16), (4, 4)),
        ((10, 15), (1, 15)),
    ],
)
def test_ones_own_images(tmp_path, shape, image_shape):
    images = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "own.npy", images)
    data = load(str(tmp_path / "own.npy"))
    assert data.image_shape == image_shape and data.name == "own.npy"
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.train_labels is None
    everything = torch.cat([data.train, data.test]).sort(0).values
    images = torch.as_tensor(images)
    if shape[-1] == 3:
        images = images.movedim(-1, 1)
    assert torch.equal(everything, images.flatten(1).sort(0).values)


def test_ones_own_bytes_and_labels(tmp_path):
    images = np.arange(60, dtype=np.uint8).reshape(15, 2, 2)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(15))
    data = load(str(tmp_path / "own.npz"))
    first = data.train_labels[0]
    expected = torch.as_tensor(images[first].ravel() / 255.0)
    assert torch.allclose(data.train[0], expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((9, 4), 2.0), "range from 2 to 2; expected floats in"),
        (np.full((9, 4), np.nan), "hold 36 NaN; expected none"),
        (np.zeros(9), r"shape \(9,\); expected \(N, ...\)"),
        (np.zeros((2, 4)), "at least 5 images"),
        (
            np.full((9, 4), 300),
            "int64 and range from 300 to 300; expected floats in .* 4095, x",
        ),
        (np.array([{}] * 9), "cannot be read as a NumPy file"),
        (b"not an array", "cannot be read as a NumPy file"),
        ({"a": np.zeros(9), "b": np.zeros(9)}, "under the name 'images'"),
        (
            {"images": np.zeros((9, 4)), "labels": np.zeros(8, int)},
            r"expected one label for each of 9 images",
        ),
    ],
)
def test_bad_files_are_refused_with_a_sentence(tmp_path, content, message):
    path = tmp_path / "bad.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        path = tmp_path / "bad.npy"
        np.save(path, content)
    with pytest.raises(DataError, match=message) as error:
        load(str(path))
    assert path.name in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("imagenet", "'imagenet'; expected mnist"), ("no.npy", "no file no.npy")],
)
def test_unknown_data_are_named(name, message):
    with pytest.raises(DataError, match=message):
        load(name)


def test_minibatches_cover_the_data_once():
    batches = list(minibatches(10, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    seen = torch.cat(batches)
    assert not torch.equal(seen, torch.arange(10))
    assert torch.equal(seen.sort().values, torch.arange(10))


def test_binary_images_are_white_as_often_as_the_gray_ones_are_bright(digits):
    gray = digits.train[:1].expand(20_000, 64)
    drawn = draw_binary(gray)
    assert drawn.dtype == gray.dtype and set(drawn.unique().tolist()) == {0, 1}
    chosen = (gray[0] > 0) & (gray[0] < 1)
    assert_mean(drawn[:, chosen], gray[0, chosen])
    assert torch.equal(draw_binary(drawn), drawn)


def test_what_is_drawn_once_is_drawn_the_same_for_all_runs(digits):
    first = digits.binarize("static")
    torch.manual_seed(99)
    assert torch.equal(first.train, digits.binarize("static").train)
    dynamic = digits.binarize("dynamic")
    assert torch.equal(dynamic.train, digits.train)
    assert torch.equal(dynamic.test, first.test)
    assert first.is_binary and dynamic.is_binary and not digits.is_binary
    assert digits.binarize("none") is digits
    again = first.binarize("static")
    assert torch.equal(again.train, first.train)
    few = digits.first(50).binarize("static")
    assert torch.equal(few.test, first.test[:50])


def test_a_static_draw_is_a_fair_one(digits):
    first = digits.binarize("static")
    for drawn, gray in ((first.train, digits.train), (first.test, digits.test)):
        chosen = (gray > 0) & (gray < 1)
        deviation = (drawn - gray)[chosen] / (gray * (1 - gray))[chosen].sqrt()
        assert_mean(deviation, 0.0)
        assert_mean(deviation.square(), 1.0)
