"""The graph of what a function does to tensors."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, fx, nn

from pyro_vae.svi import compile_graph
from pyro_vae.svi.compat import aten
from pyro_vae.svi.loops.compiler import CompilerError, find_compiler
from pyro_vae.svi.record import list_tensors, read_example, record
from tests.models import record_graph


def test_it_repeats_draws_changes_in_place_and_gradients():
    param, counter = nn.Parameter(torch.ones(2)), torch.zeros(2)

    def function(_):
        noise = torch.randn(2)
        counter.add_(1)
        with torch.enable_grad():
            (param.exp() * noise * counter).sum().backward()
        gradient, param.grad = param.grad, None
        return [gradient]

    with torch.no_grad():
        recorded = record(function, [param])
    assert [c is counter for c in recorded.constants] == [True]
    order = [aten.randn.default, aten.add_.Tensor, aten.exp.default, "output"]
    targets = [node.target for node in recorded.graph.nodes]
    assert [target for target in targets if target in order] == order
    graph = fx.GraphModule({}, recorded.graph)
    counter.fill_(5.0)
    torch.manual_seed(3)
    (gradient,) = graph(2 * torch.ones(2), counter)
    torch.manual_seed(3)
    expected = math.exp(2) * torch.randn(2) * 6
    torch.testing.assert_close(gradient, expected)
    assert counter.tolist() == [6.0, 6.0]


def test_inputs_that_come_late_stand_before_all_that_is_computed():
    others = [torch.ones(2), torch.zeros(2)]

    def function(x):
        return [x.exp() + others[0], x * others[1], others[1]]

    recorded = record(function, [torch.ones(2)])
    kinds = [node.op for node in recorded.graph.nodes]
    assert kinds[:3] == ["placeholder"] * 3
    assert "placeholder" not in kinds[3:]
    graph = fx.GraphModule({}, recorded.graph)
    results = graph(torch.zeros(2), 2 * torch.ones(2), 3 * torch.ones(2))
    assert [result.tolist() for result in results] == [
        [3.0] * 2,
        [0] * 2,
        [3.0] * 2,
    ]


def test_a_new_tensor_of_numbers_may_be_changed():
    def function(x):
        made = torch.tensor([1.0, 2.0])
        made += x
        return [made]

    recorded = record(function, [torch.ones(2)])
    graph = fx.GraphModule({}, recorded.graph)
    for _ in range(2):
        (result,) = graph(torch.ones(2), *recorded.constants)
        assert result.tolist() == [2.0, 3.0]


def test_examples_tell_shapes_and_what_is_a_view():
    def function(x):
        y = torch.add(input=x, other=1)
        first, second = y.t().split(2)
        second.mul_(2)
        return [y, first, second, y.float(), y[1]]

    graph = record_graph(function, [torch.ones(3, 4)[1:]])
    (output,) = graph.graph.find_nodes(op="output")
    nodes = output.args[0]
    y, _, _, other, row = nodes
    examples = [read_example(node) for node in nodes]
    assert [e.shape for e in examples] == [(2, 4), *2 * [(2, 2)], (2, 4), (4,)]
    assert [e.strides for e in examples[:3]] == [(4, 1), (1, 4), (1, 4)]
    assert [e.source for e in examples] == [None, 0, 0, None, 0]
    assert [e.shift for e in examples] == [0, 0, 0, 0, 4]
    assert other.meta["example"].dtype == torch.float32
    assert list_tensors(row) == [y]
    assert read_example(output) is None
    made = examples[2].make()
    assert made.stride() == (1, 4) and made.device.type == "meta"


def test_what_is_no_plain_tensor_has_no_example():
    def function(x):
        return [torch._neg_view(x), x.to_sparse(), x[:0], x[:0] + 1]

    graph = record_graph(function, [torch.ones(2, 2)])
    (output,) = graph.graph.find_nodes(op="output")
    negated, sparse, _, other = map(read_example, output.args[0])
    assert negated is None and sparse is None
    assert other.source is None


def test_autocast_converts_a_parameter_in_the_record():
    weight = nn.Parameter(torch.ones(3, 3).float())
    x = torch.ones(2, 3).float()

    def function(x, weight):
        return [x @ weight]

    with torch.autocast("cpu", torch.bfloat16):
        function(x, weight)  # which keeps the rounded weight
        graph = record_graph(function, [x, weight])
        assert torch.is_autocast_cache_enabled()
    (result,) = graph(x, 2 * weight)
    assert result.dtype == torch.bfloat16
    assert result.tolist() == [[6.0] * 3] * 2


def test_operators_of_inference_mode_are_taken_apart():
    def function(x):
        return [torch.nn.functional.dropout(x, 0.5), x.matmul(x)]

    with torch.inference_mode():
        graph = record_graph(function, [torch.ones(4, 4)])
    targets = {str(node.target) for node in graph.graph.nodes}
    assert "aten.mm.default" in targets
    assert not {"aten.matmul.default", "aten.dropout.default"} & targets


def test_functions_of_torch_func_are_recorded():
    def function(x):
        gradient = torch.func.grad(lambda v: v.exp().sum())
        return [torch.func.vmap(gradient)(x)]

    x = torch.randn(3, 2)
    graph = record_graph(function, [x])
    torch.testing.assert_close(graph(2 * x)[0], (2 * x).exp())


def test_a_compiled_function_is_recorded_as_it_is_written():
    runs = []

    def backend(graph, inputs):
        def run(*args):
            runs.append(args)
            return graph(*args)

        return run

    compiled = torch.compile(lambda x: x.exp() + 1, backend=backend)
    compiled(torch.ones(2))
    assert len(runs) == 1
    graph = record_graph(lambda x: [compiled(x)], [torch.ones(2)])
    assert len(runs) == 1
    assert aten.exp.default in {node.target for node in graph.graph.nodes}
    assert graph(torch.zeros(2))[0].tolist() == [2.0, 2.0]


class Wrapped(Tensor):
    """A tensor that sees to its operators by those of another."""

    @staticmethod
    def __new__(cls, inner):
        return cls._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        given = [arg.inner if isinstance(arg, cls) else arg for arg in args]
        return cls(function(*given, **(kwargs or {})))


def test_what_is_in_a_tensor_that_handles_operators_is_recorded():
    graph = record_graph(lambda x: [(Wrapped(x) * 2).inner], [torch.ones(2)])
    assert graph(3 * torch.ones(2))[0].tolist() == [6.0, 6.0]


@pytest.mark.parametrize("optim", ["Adam", "AdamW", "ClippedAdam"])
def test_a_first_step_does_not_import_torch_s_compilers(optim):
    try:
        find_compiler()
    except CompilerError:
        pytest.skip("no loops in C here")
    code = f"""
import sys, pyro, torch
from pyro.infer.autoguide import AutoNormal
from pyro_vae.svi import CompiledSVI
def model(x):
    z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
    pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)
svi = CompiledSVI(model, AutoNormal(model), pyro.optim.{optim}({{"lr": 0.1}}))
svi.step(torch.tensor(2.0))
svi.step(torch.tensor(2.0))
print([name for name in ("torch._dynamo", "torch._inductor")
       if name in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_an_operator_that_fails_is_not_recorded():
    def function(x):
        try:
            return [torch.linalg.cholesky(x)]
        except torch.linalg.LinAlgError:
            return [torch.linalg.cholesky(x + 3 * torch.eye(2))]

    x = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    graph = compile_graph(function, [x])
    torch.testing.assert_close(graph(x)[0], function(x)[0])
