"""Data that are not what they say they are: refused, or read as they are."""

import gzip
import hashlib
import io
import os
import struct
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from torchvision import datasets

from pyro_vae.data import (
    DataError,
    Dataset,
    DataUnavailableError,
    downloads,
    load,
)
from pyro_vae.data.downloads import git_hash
from pyro_vae.training.setup import resolve_device

IMAGES = np.random.default_rng(0).random((10, 2, 2))


def npy_bytes(shape, dtype="<f8", body=b"", version=(1, 0)):
    file = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": dtype}
    write = {
        (1, 0): npy.write_array_header_1_0,
        (2, 0): npy.write_array_header_2_0,
    }[version]
    write(file, header)
    return file.getvalue() + body


def write_npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def refusal(path):
    with pytest.raises(DataError) as error:
        load(path)
    said = str(error.value)
    assert path.name in said and "\n" not in said and len(said) < 500
    return str(error.value)


def test_other_arrays_of_a_file_are_not_read(tmp_path):
    path = tmp_path / "many.npz"
    others = {f"other{i}": np.full(999, i) for i in range(30)}
    np.savez(path, images=IMAGES, labels=np.arange(10), **others)
    content = path.read_bytes()
    body = others["other7"].tobytes()
    assert content.count(body) == 1
    path.write_bytes(content.replace(body, bytes(len(body))))  # a wrong CRC
    data = load(path)
    index = data.train_labels[0]
    assert torch.equal(data.train[0], torch.tensor(IMAGES[index].ravel()))


def test_a_damaged_array_that_is_wanted_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, images=IMAGES)
    content = path.read_bytes()
    path.write_bytes(content.replace(IMAGES.tobytes(), bytes(IMAGES.nbytes)))
    assert "CRC" in refusal(path)


def test_names_of_many_arrays_are_cut_short(tmp_path):
    path = tmp_path / "none.npz"
    np.savez(path, **{f"array{i}": IMAGES for i in range(99)})
    said = refusal(path)
    assert "array9 and 89 more; expected the images" in said


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_that_claims_more_than_its_file_holds(tmp_path, suffix):
    path = tmp_path / f"claims{suffix}"
    content = npy_bytes((1_000_000, 16), body=bytes(640))
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        write_npz(path, images=content)
    tracemalloc.start()
    said = refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert "header claims 128000000 bytes, and 640 are there" in said


def test_a_zip_file_that_lies_about_its_sizes(tmp_path):
    content = npy_bytes((1_000_000, 16), body=bytes(20_000))
    path = write_npz(tmp_path / "lies.npz", images=content)
    size, lie = (struct.pack("<L", n) for n in (len(content), 200_000_000))
    lying = path.read_bytes().replace(size, lie)
    assert lying.count(lie) == 2  # in the member's header and in the directory
    path.write_bytes(lying)
    tracemalloc.start()
    said = refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert "header claims 128000000 bytes, and 20000 are there" in said


def test_a_header_that_claims_to_be_long_is_not_read(tmp_path):
    header = npy.magic(2, 0) + struct.pack("<I", 2**28) + b" " * 2**24
    path = write_npz(tmp_path / "long.npz", images=header)
    tracemalloc.start()
    assert "cannot be read as a NumPy file" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="no sysconf here")
def test_an_array_that_the_memory_does_not_hold(tmp_path, monkeypatch):
    path = tmp_path / "large.npy"
    np.save(path, np.zeros((2**11, 2**9), np.uint8))  # 17 MiB, with floats
    load(path)
    sizes = {"SC_PHYS_PAGES": 2**12, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr(os, "sysconf", sizes.get)
    assert "take 0.0 GiB of memory, and this machine has 0.0" in refusal(path)
    sizes["SC_PHYS_PAGES"] *= 2
    assert len(load(path).train) == 1639


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy_bytes((-1, 4)), "claims the shape (-1, 4)"),
        (npy.magic(3, 0) + bytes(99), "its format is 3.0"),
        (npy_bytes((9, 4), "|O"), "it holds Python objects"),
        (npy.magic(1, 0) + b"\x01\x10" + b"9" * 4097, "a NumPy file: "),
    ],
)
def test_headers_of_no_use(tmp_path, content, reason):
    path = tmp_path / "odd.npy"
    path.write_bytes(content)
    assert reason in refusal(path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_both_formats_and_orders(tmp_path, version, order):
    path = tmp_path / "own.npy"
    with open(path, "wb") as file:
        npy.write_array(file, np.asarray(IMAGES, order=order), version)
    both = torch.cat([load(path).train, load(path).test])
    assert torch.equal(
        both.sort(0).values, torch.tensor(IMAGES).flatten(1).sort(0).values
    )


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", "f2", np.longdouble])
def test_floats_of_every_kind(tmp_path, dtype):
    images = (np.arange(40) / 64).reshape(10, 4).astype(dtype)
    labels = np.arange(10).astype(">i8")
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    data = load(tmp_path / "own.npz")
    assert data.train.dtype == torch.float64
    expected = torch.arange(40).reshape(10, 4) / 64
    assert torch.equal(data.train, expected[data.train_labels])


def test_complex_numbers_are_named_with_their_file(tmp_path):
    np.save(tmp_path / "own.npy", IMAGES.astype(complex))
    assert "of type complex128" in refusal(tmp_path / "own.npy")


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_bytes_of_zero_and_one_are_binary_images(tmp_path, dtype):
    np.save(tmp_path / "own.npy", (IMAGES > 0.5).astype(dtype))
    data = load(tmp_path / "own.npy")
    assert data.is_binary and data.train.max() == 1
    assert data.train.dtype == torch.float64


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 2), (2,) * 4])
def test_images_that_are_no_pictures_are_refused(tmp_path, shape):
    np.save(tmp_path / "own.npy", np.zeros((9, *shape)))
    assert "with 1 or 3 channels, or (N, D)" in refusal(tmp_path / "own.npy")


def test_one_channel_may_come_first(tmp_path):
    np.save(tmp_path / "own.npy", np.zeros((9, 1, 4, 5)))
    assert load(tmp_path / "own.npy").image_shape == (4, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="names are not bytes")
def test_the_name_of_a_file_is_made_printable(tmp_path):
    for name, printed in (
        (b"a\xff.npy", r"a\xff.npy"),
        ("ä$.npy".encode(), "ä$.npy"),
        (b"a\nb.npy", r"a\nb.npy"),
    ):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        np.save(path, IMAGES)
        assert load(path).name == load(str(path)).name == printed


SIZES = {"train": 6, "t10k": 5}


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A small Fashion-MNIST of pixel i for image i, and no network."""
    for file, shape in downloads.IDX_FILES.items():
        size = SIZES[file.partition("-")[0]]
        small = (size, *shape[1:])
        monkeypatch.setitem(downloads.IDX_FILES, file, small)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for file, shape in downloads.IDX_FILES.items():
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        body = np.repeat(np.arange(shape[0]), np.prod(shape[1:], dtype=int))
        (folder / file).write_bytes(header + body.astype(np.uint8).tobytes())
    packed = {f.name: pack(f.read_bytes()) for f in folder.iterdir()}
    resources = [(f"{name}.gz", md5(packed[name])) for name in packed]
    for theirs in (datasets.FashionMNIST, datasets.KMNIST):
        monkeypatch.setattr(theirs, "resources", resources)
    monkeypatch.setattr(datasets.utils, "download_url", no_network)
    ours = {f.name: git_hash(f.read_bytes()) for f in folder.iterdir()}
    sums = {"mnist": dict.fromkeys(ours, "none"), "fashion-mnist": ours}
    monkeypatch.setattr(downloads, "CHECKSUMS", sums)
    return folder


def no_network(*_):
    raise OSError("no network")


def pack(content):
    return gzip.compress(content, mtime=0)


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_the_files_that_were_checked_are_the_ones_that_are_read(raw):
    processed = raw.parent / "processed"
    processed.mkdir()
    other = torch.full((6, 28, 28), 9, dtype=torch.uint8), torch.full((6,), 9)
    for file in ("training.pt", "test.pt"):
        torch.save(other, processed / file)
    data = load("fashion-mnist", raw.parents[1])
    assert torch.equal(data.train[:, 0], torch.arange(6.0) / 255)
    assert torch.equal(data.test_labels, torch.arange(5))
    assert data.image_shape == (28, 28)


@pytest.mark.parametrize("file", list(downloads.IDX_FILES))
def test_the_files_of_another_set_are_refused(raw, file):
    sums = downloads.CHECKSUMS
    sums["mnist"][file], sums["fashion-mnist"][file] = (
        sums["fashion-mnist"][file],
        "none",
    )
    with pytest.raises(DataError, match=f"{file} is .* a file of mnist; del"):
        load("fashion-mnist", raw.parents[1])


@pytest.mark.parametrize("file", list(downloads.IDX_FILES))
def test_files_are_held_to_their_checksums(raw, file):
    path = raw / file
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    with pytest.raises(DataError, match=f"{file} .* its checksum; delete"):
        load("fashion-mnist", raw.parents[1])


def test_a_packed_file_vouches_for_the_unpacked_one(raw):
    file = "t10k-images-idx3-ubyte"
    path, archive = raw / file, raw / f"{file}.gz"
    content = path.read_bytes()
    archive.write_bytes(pack(content))
    downloads.CHECKSUMS["fashion-mnist"][file] = "none"
    load("fashion-mnist", raw.parents[1])
    path.write_bytes(content[:-1] + b"\x77")
    with pytest.raises(DataError, match=f"{file} .* its checksum; delete"):
        load("fashion-mnist", raw.parents[1])
    archive.write_bytes(pack(path.read_bytes()))
    with pytest.raises(DataError, match=f"{file} .* its checksum; delete"):
        load("fashion-mnist", raw.parents[1])


def test_the_checksums_are_gits():
    empty = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_hash(b"") == empty
    sums = [c for of in downloads.CHECKSUMS.values() for c in of.values()]
    assert len(set(sums)) == 12
    for of in downloads.CHECKSUMS.values():
        assert list(of) == list(downloads.IDX_FILES)


def test_downloads_are_encrypted_where_they_can_be(raw, monkeypatch):
    packed = {f"{f.name}.gz": pack(f.read_bytes()) for f in raw.iterdir()}
    asked = []

    def download_url(url, folder, file, _):
        asked.append(url)
        if "rois" in url:
            Path(folder, file).write_bytes(packed[file])
        else:
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(datasets.utils, "download_url", download_url)
    root = raw.parents[1]
    downloads.CHECKSUMS["kmnist"] = downloads.CHECKSUMS.pop("fashion-mnist")
    assert len(load("kmnist", root).train) == 6
    assert len(asked) == 4 and all(u.startswith("https://codh") for u in asked)
    asked.clear()
    for name in ("mnist", "fashion-mnist"):
        for file in raw.iterdir():
            file.unlink()
        with pytest.raises(DataUnavailableError, match=r"raw, or give .*data_"):
            load(name, root)
        is_open = [not url.startswith("https:") for url in asked]
        assert is_open == sorted(is_open) and not is_open[0]
        asked.clear()


def test_files_in_the_wrong_folder_are_told_the_right_one(raw):
    root = raw.parents[1]
    for file in list(raw.iterdir()):
        file.rename(root / file.name)
    with pytest.raises(
        DataUnavailableError, match=r"not in .*FashionMNIST/raw"
    ):
        load("fashion-mnist", root)


def dataset(**changes):
    arrays = {
        "train": torch.rand(6, 12),
        "test": torch.rand(4, 12),
        "train_labels": torch.arange(6),
        "test_labels": None,
        "image_shape": (3, 4),
        **changes,
    }
    return Dataset("own", **arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": torch.rand(6, 3, 4)}, r"train is Tensor of shape \(6, 3, 4"),
        ({"test": np.zeros((4, 12))}, r"test is ndarray of shape \(4, 12\)"),
        ({"test": torch.rand(4, 11)}, r"test has 11 values .* expected 12"),
        ({"image_shape": (3, 5)}, r"train has 12 values .* expected 15"),
        ({"image_shape": (12,)}, r"image_shape is \(12,\); expected"),
        ({"train_labels": torch.arange(5)}, r"train_labels is .* each of 6"),
        ({"test_labels": [1, 2, 3, 4]}, "test_labels is list; expected a"),
        ({"train": torch.ones(6, 12).byte()}, "type torch.uint8; expected"),
        ({"train": torch.full((6, 12), torch.nan)}, "in 6 of 6 images"),
        ({"test": torch.eye(4, 12) / 0.0}, "test has NaN or inf.* 4 of 4"),
    ],
)
def test_a_data_set_of_ones_own_is_checked(changes, message):
    with pytest.raises(DataError, match=message):
        dataset(**changes)


def test_standardized_images_are_data_but_cannot_be_binarized():
    data = dataset(train=torch.randn(6, 12) * 3)
    assert data.first(2).to("cpu").hold_out(0.5)[1].shape == (1, 12)
    assert data.binarize("none") is data
    for how in ("static", "dynamic"):
        with pytest.raises(DataError, match=r"train ranges .* in \[0, 1\]"):
            data.binarize(how)
    dataset(train=torch.full((6, 12), 1e308))  # its sum is infinite
    with pytest.raises(DataError, match="NaN"):
        replace(data, test=torch.full((1, 12), torch.nan))


@pytest.mark.parametrize(
    "name", ["meta", "hpu", "mtia", "xla", "vulkan", "fpga", "lazy", "", None]
)
def test_devices_that_hold_no_number_are_refused(name):
    with pytest.raises(ValueError, match="which torch cannot use here") as e:
        resolve_device(name)
    said = str(e.value)
    assert "\n" not in said and ". " not in said


def test_every_kind_of_error_of_a_device_becomes_a_sentence(monkeypatch):
    def ones(*_, device):
        raise StopIteration if device.type == "cpu" else KeyError

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(ValueError, match=r"auto, cpu or cuda \(StopIterat"):
        resolve_device("cpu")
