"""The kernel of a product: measured once, kept, and always the same."""

import json

import pytest
import torch

from pyro_vae.svi import kernels


@pytest.fixture
def product():
    left = torch.ones(40, 30, dtype=torch.float32)
    return left, torch.ones(20, 30, dtype=torch.float32).t()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels._choose.cache_clear()
    yield tmp_path / "pyro_vae" / "kernels.json"
    kernels._choose.cache_clear()


def with_times(monkeypatch, **times):
    """Has `time_kernels` find these, and returns what it was asked for."""
    asked = []

    def time_kernels(left, right, names):
        asked.append((left, right))
        return times

    monkeypatch.setattr(kernels, "list_kernels", lambda precision: [*times])
    monkeypatch.setattr(kernels, "time_kernels", time_kernels)
    return asked


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"torch": 1.0, "onednn": 0.5}, "onednn"),
        ({"torch": 1.0, "onednn": 0.97}, "torch"),
        ({"torch": 1e-4, "onednn": 0.6e-4}, "torch"),  # Python calls it
        ({"torch": 1e-3, "onednn": 0.6e-3}, "onednn"),
        ({"torch": 1.0, "onednn": 0.5, "bfloat16": 0.3}, "bfloat16"),
        ({"torch": 1.0, "onednn": 0.5, "bfloat16": 7.0}, "onednn"),
    ],
)
def test_the_fastest_is_chosen(cache, monkeypatch, product, times, chosen):
    asked = with_times(monkeypatch, **times)
    assert kernels.choose_kernel(*product, "medium") == chosen
    for matrix, given in zip(asked[0], product, strict=True):
        assert matrix.shape == given.shape
        assert matrix.stride() == given.stride()
        assert matrix.dtype == torch.float32


def test_onednn_is_charged_for_the_copy_of_a_transposed_matrix(
    cache, monkeypatch, product
):
    copies = []

    def time(functions, seconds):
        copies.append(functions["copy"])
        return {"copy": 1.0}

    monkeypatch.setattr(kernels, "_time", time)
    left = torch.ones(30, 40).t()
    for matrix, chosen in ((product[0], "onednn"), (left, "torch")):
        with_times(monkeypatch, torch=1.0, onednn=0.5)
        assert kernels.choose_kernel(matrix, product[1], "high") == chosen
    assert len(copies) == 1 and copies[0]().is_contiguous()


def test_it_is_measured_once_and_kept(cache, monkeypatch, product):
    asked = with_times(monkeypatch, torch=1.0, onednn=0.5)
    kernels.choose_kernel(*product, "highest")
    kernels._choose.cache_clear()  # as in another process
    with_times(monkeypatch, torch=0.1, onednn=0.5)
    assert kernels.choose_kernel(*product, "highest") == "onednn"
    assert len(asked) == 1
    assert list(json.loads(cache.read_text()).values()) == ["onednn"]


def test_another_shape_and_other_threads_are_measured(
    cache, monkeypatch, product
):
    asked = with_times(monkeypatch, torch=1.0, onednn=0.5)
    left, right = product
    for operands in (
        (left, right),
        (left[:7], right),
        (left, right.contiguous()),
    ):
        kernels.choose_kernel(*operands, "highest")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    kernels.choose_kernel(left, right, "highest")
    assert len(asked) == 4


def test_what_another_process_measured_meanwhile_holds(
    cache, monkeypatch, product
):
    """For two of its fits with one seed are to take the same kernel."""
    with_times(monkeypatch, torch=1.0, onednn=0.5)

    def measure(*args):
        kernels._choose.cache_clear()
        monkeypatch.setattr(kernels, "_measure", lambda *args: "torch")
        assert kernels.choose_kernel(*product, "highest") == "torch"
        return "onednn"

    monkeypatch.setattr(kernels, "_measure", measure)
    assert kernels.choose_kernel(*product, "highest") == "torch"
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize("content", ["[1]", '{"a": ', "[[[[", "\x00"])
def test_a_damaged_file_is_replaced(cache, monkeypatch, product, content):
    with_times(monkeypatch, torch=1.0, onednn=0.5)
    cache.parent.mkdir()
    cache.write_text(content)
    assert kernels.choose_kernel(*product, "highest") == "onednn"
    assert list(json.loads(cache.read_text()).values()) == ["onednn"]


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"torch": 1.0, "onednn": 0.1}, "torch"),
        ({"torch": 1.0, "onednn": 0.1, "bfloat16": 0.5}, "bfloat16"),
    ],
)
def test_where_nothing_can_be_kept_nothing_is_measured_for(
    cache, monkeypatch, product, times, chosen
):
    """For another process may measure another one ahead."""
    with_times(monkeypatch, **times)
    cache.parent.write_text("a file where the folder would be")
    assert kernels.choose_kernel(*product, "medium") == chosen


def test_times_are_of_the_kernels(product):
    names = kernels.list_kernels("highest")
    state = torch.get_rng_state()
    times = kernels.time_kernels(*product, names)
    assert list(times) == names and names[0] == "torch"
    assert all(0 < seconds < 1 for seconds in times.values())
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_is_for_medium_and_processors_that_have_it(monkeypatch):
    for processor, expected in (
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({}, False),
    ):
        monkeypatch.setattr(
            kernels, "describe_processor", lambda p=processor: p
        )
        assert ("bfloat16" in kernels.list_kernels("medium")) == expected
        for precision in ("highest", "high"):
            assert "bfloat16" not in kernels.list_kernels(precision)
