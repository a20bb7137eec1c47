"""Every kind of file and object that holds images, made by its own library."""

import gzip
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from torch.utils.data import IterableDataset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder

from pyro_vae.data import DataError, Options, Rows, load, rows, to_dataset

BYTES = np.random.default_rng(0).integers(0, 256, (20, 4, 6), np.uint8)
LABELS = np.arange(20) % 3
FLOATS = torch.as_tensor(BYTES.reshape(20, 24) / 255.0)


@pytest.fixture(params=["in memory", "as asked for"])
def where_rows_are(request, monkeypatch):
    if request.param == "as asked for":
        monkeypatch.setattr(rows, "IN_MEMORY", 100)


def same_rows(found, expected):
    assert torch.equal(found.sort(0).values, expected.sort(0).values)


def all_images(data):
    train = data.train
    if isinstance(train, Rows):
        train = train.to_tensor()
    return torch.cat([train, data.test])


def write_npy(path):
    np.save(path, BYTES)


def write_npz(path):
    np.savez(path, images=BYTES, labels=LABELS)


def write_hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["images"], file["labels"] = BYTES, LABELS


def write_zarr(path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w")
    group.create_array("images", data=BYTES)
    group.create_array("labels", data=LABELS)


def write_idx(path):
    header = struct.pack(">HBB3I", 0, 8, 3, *BYTES.shape)
    path.write_bytes(header + BYTES.tobytes())


def write_packed_idx(path):
    header = struct.pack(">HBB3I", 0, 8, 3, *BYTES.shape)
    path.write_bytes(gzip.compress(header + BYTES.tobytes()))


def write_folder(path):
    path.mkdir()
    for number, image in enumerate(BYTES):
        Image.fromarray(image).save(path / f"{number:02}.png")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("own.npy", write_npy),
        ("own.npz", write_npz),
        ("own.h5", write_hdf5),
        ("own.hdf5", write_hdf5),
        ("own.zarr", write_zarr),
        ("own", write_idx),
        ("train-images-idx3-ubyte.gz", write_packed_idx),
        ("own images", write_folder),
    ],
)
@pytest.mark.usefixtures("where_rows_are")
def test_images_in_files(tmp_path, name, write):
    write(tmp_path / name)
    data = load(tmp_path / name)
    assert data.image_shape == (4, 6) and data.name == name
    assert data.reading.endswith(
        "gray images of 4 x 6, uint8 values divided by 255"
    )
    assert (len(data.train), len(data.test)) == (16, 4)
    same_rows(all_images(data), FLOATS)
    if data.train_labels is not None:
        numbers = torch.cat([data.train_labels, data.test_labels])
        order = [
            int((FLOATS - x).abs().sum(1).argmin()) for x in all_images(data)
        ]
        assert numbers.tolist() == LABELS[order].tolist()


def test_keras_and_medmnist_files(tmp_path):
    for name, keys in (
        ("mnist.npz", ("x_train", "y_train", "x_test", "y_test")),
        (
            "medmnist.npz",
            ("train_images", "train_labels", "test_images", "test_labels"),
        ),
    ):
        labels = LABELS[:, None] if name == "medmnist.npz" else LABELS
        arrays = (BYTES[:15], labels[:15], BYTES[15:], labels[15:])
        np.savez(tmp_path / name, **dict(zip(keys, arrays, strict=True)))
        data = load(tmp_path / name)
        assert torch.equal(data.train, FLOATS[:15])
        assert torch.equal(data.test, FLOATS[15:])
        assert data.train_labels.tolist() == LABELS[:15].tolist()
        assert data.test_labels.tolist() == LABELS[15:].tolist()


def test_images_for_validation_are_added_and_said_so(tmp_path):
    color = np.random.default_rng(1).integers(0, 256, (18, 5, 4, 3), np.uint8)
    np.savez(
        tmp_path / "m.npz",
        train_images=color[:7],
        val_images=color[7:12],
        test_images=color[12:],
        train_labels=np.zeros((7, 1), int),
        val_labels=np.ones((5, 1), int),
    )
    data = load(tmp_path / "m.npz")
    assert data.image_shape == (3, 5, 4)
    assert "5 for validation added to training" in data.reading
    expected = torch.as_tensor(color / 255.0).movedim(-1, 1).flatten(1)
    assert torch.equal(data.train, expected[:12])
    assert torch.equal(data.test, expected[12:])
    assert data.train_labels.tolist() == [0] * 7 + [1] * 5


def test_a_pickled_array_beside_the_images_is_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('it was unpickled')",))

    metadata = np.array([Trap()], dtype=object)
    imgs = (BYTES > 127).astype(np.uint8)
    np.savez(tmp_path / "dsprites.npz", imgs=imgs, metadata=metadata)
    data = load(tmp_path / "dsprites.npz")
    assert data.is_binary and "uint8 values of 0 and 1" in data.reading


def test_the_files_of_an_idx_data_set_are_found_by_name(tmp_path):
    def write(name, array):
        rank = array.ndim
        header = struct.pack(f">HBB{rank}I", 0, 8, rank, *array.shape)
        (tmp_path / name).write_bytes(header + array.tobytes())

    write("train-images-idx3-ubyte", BYTES[:14])
    write("train-labels-idx1-ubyte", LABELS[:14].astype(np.uint8))
    write("t10k-images-idx3-ubyte", BYTES[14:])
    write("t10k-labels-idx1-ubyte", LABELS[14:].astype(np.uint8))
    for path in (tmp_path, tmp_path / "train-images-idx3-ubyte"):
        data = load(path)
        assert torch.equal(data.train, FLOATS[:14])
        assert data.test_labels.tolist() == LABELS[14:].tolist()


@pytest.mark.usefixtures("where_rows_are")
def test_a_folder_for_each_class(tmp_path):
    rng = np.random.default_rng(2)
    for number in range(12):
        folder = tmp_path / ("cat", "dog", "emu")[number % 3]
        folder.mkdir(exist_ok=True)
        image = np.full((9, 7, 3), 20 * number, np.uint8)
        image[..., 1] = rng.integers(256)
        Image.fromarray(image).save(folder / f"{number}.png")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog", "emu")
    assert data.image_shape == (3, 9, 7)
    everything = torch.cat([data.train_labels, data.test_labels])
    reds = (all_images(data)[:, 0] * 255 / 20).round().long()
    assert torch.equal(reds % 3, everything)
    theirs = ImageFolder(tmp_path)
    assert tuple(theirs.classes) == data.classes
    gray = load(tmp_path, options=Options(grey=True, image_size=(4,)))
    assert gray.image_shape == (4, 4)
    assert "cropped and resized to 4 x 4" in gray.reading


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no images; expected files such as .png"),
        (["a.png", "b/c.png"], "holds 1 images beside folders with 1"),
        (["a.png", "b.png:3"], "have 2 sizes, such as 2 x 2 .*give image_size"),
        (["a.png", "b.png:damaged"], "b.png is no image"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, files, message):
    for name in files:
        name, _, what = name.partition(":")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        side = 3 if what == "3" else 2
        Image.new("L", (side, side)).save(tmp_path / name)
        if what == "damaged":
            (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_tables(tmp_path, name):
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "kind": list("abcab" * 4),
            "wide": rng.random(20) * 100 - 50,
            "narrow": rng.random(20),
        }
    )
    write = table.to_csv if name == "t.csv" else table.to_parquet
    write(tmp_path / name, index=False)
    with pytest.raises(DataError, match=r"from -4.*give the option scale"):
        load(tmp_path / name)
    data = load(tmp_path / name, options=Options(scale="columns"))
    assert data.image_shape == (1, 2) and data.classes == ("a", "b", "c")
    assert "each brought from its own range" in data.reading
    x = all_images(data)
    assert x.amin(0).tolist() == [0, 0] and x.amax(0).tolist() == [1, 1]
    plain = load(tmp_path / name, options=Options(values="real"))
    expected = torch.as_tensor(table.iloc[:, 1:].to_numpy()).sort(0).values
    torch.testing.assert_close(all_images(plain).sort(0).values, expected)
    with pytest.raises(DataError, match="label_column is 'no'; expected one"):
        load(tmp_path / name, options=Options(label_column="no"))


def test_a_table_of_counts(tmp_path):
    counts = np.random.default_rng(4).poisson(3.0, (12, 5))
    pd.DataFrame(counts).to_csv(tmp_path / "counts.csv", index=False)
    data = load(tmp_path / "counts.csv", options=Options(values="counts"))
    assert f"int64 counts from {counts.min()} to" in data.reading
    same_rows(all_images(data), torch.as_tensor(counts).double())


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
@pytest.mark.usefixtures("where_rows_are")
def test_anndata(tmp_path, make):
    anndata = pytest.importorskip("anndata")
    counts = np.random.default_rng(5).poisson(1.0, (20, 6)).astype(np.float32)
    obs = pd.DataFrame(
        {"kind": list("abcd" * 5)}, index=list(map(str, range(20)))
    )
    anndata.AnnData(make(counts), obs).write_h5ad(tmp_path / "cells.h5ad")
    options = Options(values="counts", label_column="kind")
    data = load(tmp_path / "cells.h5ad", options=options)
    assert data.classes == tuple("abcd") and data.image_shape == (1, 6)
    same_rows(all_images(data), torch.as_tensor(counts).double())
    found = anndata.read_h5ad(tmp_path / "cells.h5ad").X
    direct = to_dataset(found, Options(values="counts"))
    same_rows(all_images(direct), torch.as_tensor(counts).double())


@pytest.mark.usefixtures("where_rows_are")
def test_objects_that_hold_images(tmp_path):
    np.save(tmp_path / "own.npy", BYTES)
    mapped = np.load(tmp_path / "own.npy", mmap_mode="r")
    tensor = torch.from_numpy(BYTES)
    for data in (
        BYTES,
        mapped,
        tensor,
        TensorDataset(tensor, torch.from_numpy(LABELS)),
        BYTES.astype(">f8") / 255,
        FLOATS,
    ):
        found = to_dataset(data)
        same_rows(all_images(found), FLOATS)
        assert len(found.test) == 4
    labeled = to_dataset(TensorDataset(tensor, torch.from_numpy(LABELS)))
    assert len(labeled.train_labels) == 16 and len(labeled.test_labels) == 4
    assert to_dataset(labeled) is labeled


@pytest.mark.usefixtures("where_rows_are")
def test_a_data_set_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict(
        {"image": BYTES.tolist(), "label": LABELS.tolist()}
    ).with_format("torch")
    found = to_dataset(table, Options(scale=255))
    same_rows(all_images(found), FLOATS)
    assert len(found.train_labels) == 16


def test_a_data_set_of_torch_whose_items_are_pictures():
    found = to_dataset(FakeData(10, (3, 6, 5)))
    assert found.image_shape == (3, 6, 5)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(4)


@pytest.mark.parametrize("data", [Stream(), iter([1]), {1, 2}, 3])
def test_streams_are_refused_with_the_reason(data):
    with pytest.raises(DataError, match="cannot be read in any order"):
        to_dataset(data)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((9, 3, 8, 3)), {}, "may be first or last; expected the opt"),
        (np.zeros((9, 8, 8, 4)), {}, "leave the alpha channel out"),
        (np.full((9, 4), 300), {}, r"the option scale: with 4095, x ranges"),
        (np.full((9, 4), 7, np.int8), {}, "the option scale: with 255"),
        (np.full((9, 4), 2.0), {}, "expected floats in .0, 1.: rescale them"),
        (np.full((9, 4), 9.0), {"scale": 4.0}, "and x from 2.25 to 2.25"),
        (np.zeros((9, 4)), {"scale": "columns"}, "are no table"),
        (
            -np.ones((9, 4)),
            {"values": "counts"},
            "expected counts of 0 or more",
        ),
        (np.full((9, 4), np.inf), {}, "inf; expected finite values"),
        (np.zeros((3, 4)), {}, "at least 5 images"),
        (np.zeros(9), {}, r"have shape \(9,\)"),
        (np.zeros((9, 2), complex), {}, "of type complex128"),
    ],
)
def test_what_could_be_misread_is_refused(images, options, message):
    with pytest.raises(DataError, match=message):
        to_dataset(images, Options(**options))


def test_what_was_asked_is_done():
    image = np.random.default_rng(6).random((6, 3, 8, 3))
    first = to_dataset(image, Options(layout="channels-first"))
    last = to_dataset(image, Options(layout="channels-last"))
    assert first.image_shape == (3, 8, 3) and last.image_shape == (3, 3, 8)
    same_rows(all_images(first), torch.as_tensor(image).flatten(1))
    moved = torch.as_tensor(image).movedim(-1, 1).flatten(1)
    same_rows(all_images(last), moved)
    deep = to_dataset(np.full((9, 4), 65535, np.uint16), Options(scale=65535))
    assert (all_images(deep) == 1).all()
    half = to_dataset(np.zeros((10, 4)), Options(test_fraction=0.5))
    assert (len(half.train), len(half.test)) == (5, 5)


def test_what_rounding_took_beyond_the_range_is_cut_and_said():
    images = np.full((9, 4), 1.0000001)
    data = to_dataset(images)
    assert data.train.max() == 1
    assert "cut to [0, 1] from [1.0000001, 1.0000001]" in data.reading


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (list("babac"), [1, 0, 1, 0, 2], ("a", "b", "c")),
        ([0.0, 2.0, 1.0, 0.0, 1.0], [0, 2, 1, 0, 1], None),
        (np.eye(5), [0, 1, 2, 3, 4], None),
        ([True, False, True, True, True], [1, 0, 1, 1, 1], None),
    ],
)
def test_labels_of_every_kind(tmp_path, labels, numbers, classes):
    images = np.arange(20).reshape(5, 4) / 19
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    data = load(tmp_path / "own.npz")
    order = (all_images(data)[:, 0] * 19 / 4).round().long()
    found = torch.cat([data.train_labels, data.test_labels])
    assert found.tolist() == torch.tensor(numbers)[order].tolist()
    assert data.classes == classes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4), "expected one label for each of 5 images"),
        ([0.5, 1, 2, 3, 4], "values such as 0.5; expected whole numbers"),
        ([np.nan, 1, 2, 3, 4], "values such as nan"),
        (np.ones((5, 2)), "rows that are not one-hot"),
        (np.zeros(5, complex), "of type complex128"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, message):
    np.savez(tmp_path / "own.npz", images=np.zeros((5, 4)), labels=labels)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "own.npz")


def test_rows_are_indexed_as_their_tensor_is(monkeypatch):
    whole = to_dataset(BYTES).train
    monkeypatch.setattr(rows, "IN_MEMORY", 100)
    data = to_dataset(BYTES)
    some = data.train
    assert isinstance(some, Rows) and some.shape == whole.shape
    everything = some.to_tensor()
    index = torch.tensor([3, 0, 3, 15])
    assert torch.equal(some[index], everything[index])
    assert torch.equal(some[2:9][torch.tensor([1, 0])], everything[[3, 2]])
    assert torch.equal(torch.cat(list(some.split(5))), everything)
    assert torch.equal(some.then(torch.sqrt)[index], everything[index].sqrt())
    rest, apart = data.hold_out(0.25)
    assert len(rest.train) == 12 and len(apart) == 4
    same_rows(torch.cat([rest.train.to_tensor(), apart]), everything)
    assert isinstance(data.first(2).train, Rows)
    with pytest.raises(DataError, match="binarize=static needs all 16 images"):
        data.binarize("static")
    assert data.describe()["num_train"] == 16


def test_a_value_that_no_sample_showed_is_refused_when_it_is_read(monkeypatch):
    monkeypatch.setattr(rows, "IN_MEMORY", 100)
    images = np.random.default_rng(7).random((4000, 4))
    images[1234] = 3.0

    class Array:  # that is not in memory
        shape, dtype = images.shape, images.dtype

        def __getitem__(self, index):
            return images[index]

    data = to_dataset(Array(), Options(test_fraction=0.001))
    with pytest.raises(DataError, match=r"values from .* to 3 in rows"):
        all_images(data)


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "own.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="python -m pip install h5py"):
        load(tmp_path / "own.h5")


@pytest.mark.parametrize(
    "name",
    [f"own.{end}" for end in ("h5", "h5ad", "parquet", "csv", "zarr", "png")],
)
def test_a_file_of_something_else_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93 something else \xff")
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as error:
        load(tmp_path / name)
    assert "\n" not in str(error.value)
