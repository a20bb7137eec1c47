"""Products of matrices between loops are those that torch computes."""

import itertools

import pytest
import torch

from pyro_vae.svi.loops import gemm
from pyro_vae.svi.loops.fusion import fuse
from tests.loops import compute, needs_compiler, record

pytestmark = needs_compiler


@pytest.mark.parametrize("n", [1, 2, 8, 40])
@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("m", [1, 4, 30])
def test_products(n, k, m):
    for a, b in itertools.product((False, True), repeat=2):
        x = torch.randn(k, n).t() if a else torch.randn(n, k)
        y = torch.randn(m, k).t() if b else torch.randn(k, m)
        for function in (
            lambda x, y: (x.exp() @ y).relu(),
            lambda x, y: x @ (y * 2),
            lambda x, y: torch.addmm(y[0], x, y),
        ):
            result, is_alone = compute(function, x, y)
            torch.testing.assert_close(result, function(x, y))
            assert is_alone


BATCHES = {
    "in order": lambda x, y: x @ y,
    "transposed": lambda x, y: y.mT @ x.mT,
    "one for all": lambda x, y: x[:1].expand(x.shape) @ y,
    "of parts": lambda x, y: x[:, 2:, 3:] @ y[:, 3:, ::1],
    "of other batches": lambda x, y: x[::2] @ y[::2],
    "of results": lambda x, y: (x.exp() @ y.exp()).sum(0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 9, 10, 11), (3, 30, 40, 50)])
@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_products(name, shape, dtype):
    count, n, k, m = shape
    x = torch.randn(count, n, k, dtype=dtype)
    y = torch.randn(count, k, m, dtype=dtype)
    result, is_alone = compute(BATCHES[name], x, y)
    torch.testing.assert_close(result, BATCHES[name](x, y))
    assert is_alone


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, ::2] @ x[::2],
        lambda x: x[:1].expand(20, 20) @ x,
        lambda x: x[:0] @ x + x.new_zeros(0, 20),
        lambda x: (x.bfloat16() @ x.bfloat16()).float(),
        lambda x: (x.long() @ x.long()).float(),
    ],
)
def test_what_the_library_does_not_take_is_torchs(function):
    x = torch.randn(20, 20)
    result, _ = compute(function, x)
    torch.testing.assert_close(result, function(x))


def test_products_without_the_library(monkeypatch):
    monkeypatch.setattr(gemm, "find_gemm", lambda: None)
    x = torch.randn(20, 30)
    result, is_alone = compute(lambda x: x @ x.t() + 1, x)
    torch.testing.assert_close(result, x @ x.t() + 1)
    assert not is_alone


def test_a_product_is_used_and_then_changed():
    def function(x):
        product = x @ x.t()
        first = product.exp() @ x
        product.mul_(2)
        return [product, first, product @ x]

    x = torch.randn(20, 30)
    fused = fuse(record(lambda x: sum(map(torch.sum, function(x))), x), [x])
    torch.testing.assert_close(fused(x)[0], sum(map(torch.sum, function(x))))
