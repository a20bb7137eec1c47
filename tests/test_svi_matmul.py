"""The kernels of large products, for processors at hand or not."""

import pytest
import torch

from pyro_vae.svi import compile_graph, kernels, matmul
from tests.models import record_graph


@pytest.fixture
def layer():
    x, weight, bias = (
        torch.randn(128, 300),
        torch.randn(200, 300),
        torch.ones(200),
    )
    return [tensor.float() for tensor in (x, weight, bias)]


def products(x, weight, bias):
    """All that a linear layer and its backward pass multiply."""
    y = torch.nn.functional.linear(x, weight, bias)
    return [y, y @ weight, y.t() @ x, x[:2] @ weight.t()]


def rewritten(kernel, tensors):
    graph = record_graph(products, tensors)
    matmul.choose_matmuls(graph, "highest", lambda *product: kernel)
    return graph, [str(node.target) for node in graph.graph.nodes]


def test_onednn_takes_the_large_products(layer):
    graph, targets = rewritten("onednn", layer)
    assert targets.count("pyro_vae.onednn_mm.default") == 3
    assert targets.count("aten.mm.default") == 1  # the small one
    exact = products(*[tensor.double() for tensor in layer])
    for left, right in zip(graph(*layer), exact, strict=True):
        error = (left - right).abs().max() / right.abs().max()
        assert error < 1e-6


def test_torchs_own_products_stay_where_they_are_fastest(layer):
    _, targets = rewritten("torch", layer)
    assert targets.count("aten.mm.default") == 3
    assert targets.count("aten.addmm.default") == 1


def test_bfloat16_rounds_each_tensor_once(layer):
    graph, _ = rewritten("bfloat16", layer)
    down = [
        node.args[0]
        for node in graph.graph.nodes
        if node.kwargs.get("dtype") == torch.bfloat16
    ]
    assert len(down) == len(set(down)) == 3  # x, weight and y
    for left, right in zip(graph(*layer), products(*layer), strict=True):
        error = (left - right).abs().max() / right.abs().max()
        assert left.dtype == torch.float32
        assert error < 0.02
    assert graph(*layer)[0].ne(products(*layer)[0]).any()


def test_double_precision_is_left_alone(layer):
    tensors = [tensor.double() for tensor in layer]
    for kernel in kernels.KERNELS:
        _, targets = rewritten(kernel, tensors)
        assert not any("convert" in target for target in targets)
        assert not any("pyro_vae" in target for target in targets)


@pytest.mark.parametrize("precision", matmul.PRECISIONS)
def test_compiled(layer, precision):
    compiled = compile_graph(products, layer, precision)
    limit = 0.02 if precision == "medium" else 1e-5
    for left, right in zip(compiled(*layer), products(*layer), strict=True):
        assert (left - right).abs().max() / right.abs().max() < limit


@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_a_tensor_that_is_overwritten_is_read_anew(layer, kernel):
    def overwritten(x, weight, bias):
        y = x @ weight.t()
        first = y @ weight
        y[:, :50].zero_()
        return [first, y @ weight]

    graph = record_graph(overwritten, layer)
    matmul.choose_matmuls(graph, "medium", lambda *product: kernel)
    for left, right in zip(graph(*layer), overwritten(*layer), strict=True):
        assert (left - right).abs().max() / right.abs().max() < 0.02
