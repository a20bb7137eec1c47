"""Loops in C compute what torch computes."""

import itertools
import re
import subprocess
import sys

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_vae import CompiledSVI, VAEConfig, build
from pyro_vae.svi import compile_graph
from pyro_vae.svi.loops import compiler, fusion, operators, source
from pyro_vae.svi.loops.compiler import CompilerError, load_library
from pyro_vae.svi.loops.fusion import fuse
from pyro_vae.svi.loops.layout import UnsuitableError
from tests.loops import check, compute, needs_compiler, record

pytestmark = needs_compiler

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 30.0, -30.0, 1e-30, -1e-30, 200.0]
EDGES = [*SPECIAL, float("inf"), -float("inf"), float("nan")]

ONE = {
    "abs": torch.abs,
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "rsqrt": torch.rsqrt,
    "sgn": torch.sgn,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": torch.nn.functional.silu,
    "sin": torch.sin,
    "softplus": torch.nn.functional.softplus,
    "softplus of another kind": lambda x: torch.nn.functional.softplus(x, 2, 9),
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
    "clamp": lambda x: x.clamp(-0.7, 0.6),
    "clamp with the bounds in turn": lambda x: x.clamp(0.7, -0.6),
    "clamp from below": lambda x: x.clamp(min=-0.7),
    "clamp from above": lambda x: x.clamp(max=0.6),
    "clamp_min": lambda x: torch.clamp_min(x, 0.1),
    "clamp_max": lambda x: torch.clamp_max(x, 0.1),
    "rsub": lambda x: 3 - x,
    "isnan": torch.isnan,
    "to float": lambda x: x.float() * 2,
    "to double": lambda x: x.double() * 2,
    "to bool": lambda x: x.bool(),
    "a number": lambda x: (x + 0.1) * 3 / 7 - 2,
    "compared": lambda x: (x > 0.5) & (x <= 30) | ~(x != x),
    "chosen": lambda x: torch.where(x > 0, x, 2 * x),
    "masked": lambda x: x.masked_fill(x > 1, -3.0),
    "ones": lambda x: torch.ones_like(x) * 2 + x,
    "zeros": lambda x: x.new_zeros(x.shape) + x,
    "full": lambda x: torch.full_like(x, 0.3) - x,
    "new": lambda x: x.new_full((3,), 0.3),
    **{
        f"to the power {power}": lambda x, power=power: x**power
        for power in (0.5, 1, 2, 3, -0.5, -1, -2, 1.7, 4, 0)
    },
}
TWO = {
    "add": torch.add,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "pow": torch.pow,
    "sub": torch.sub,
    **{name: getattr(torch, name) for name in ("eq", "ge", "gt", "le", "lt")},
    "ne": torch.ne,
    "binary_cross_entropy_with_logits": lambda x, y: (
        torch.nn.functional.binary_cross_entropy_with_logits(
            x, y, reduction="none"
        )
    ),
    "sigmoid_backward": torch.ops.aten.sigmoid_backward,
    "softplus_backward": lambda g, x: torch.ops.aten.softplus_backward(
        g, x, 1, 20
    ),
    "tanh_backward": torch.ops.aten.tanh_backward,
    "threshold_backward": lambda g, x: torch.ops.aten.threshold_backward(
        g, x, 0
    ),
    "xlogy": torch.xlogy,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ONE)
def test_one_operand(name, dtype):
    check(ONE[name], torch.tensor(EDGES, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TWO)
def test_two_operands(name, dtype):
    pairs = torch.tensor(list(itertools.product(EDGES, EDGES)), dtype=dtype)
    check(TWO[name], *(column.clone() for column in pairs.T))


def test_all_operators_are_tested():
    seen = set()
    x = torch.tensor(EDGES)
    for function in ONE.values():
        seen |= {str(n.target) for n in record(function, x).graph.nodes}
    for function in TWO.values():
        seen |= {str(n.target) for n in record(function, x, x).graph.nodes}
    known = operators.ELEMENTWISE.keys() | operators.COMPARISONS.keys()
    spelled_otherwise = {name for name in known if name.endswith(".Scalar")} | {
        "aten.add.Scalar"
    }
    assert known - seen <= spelled_otherwise


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: x * 2 - y,
        lambda x, y: x > y,
        lambda x, y: torch.maximum(x, y) - x,
        lambda x, y: torch.where(x > y, x, y),
        lambda x, y: -x,
        lambda x, y: x.double() * y,
        lambda x, y: (x * y).sum(),
        lambda x, y: (x > y).sum(0),
    ],
)
def test_integers(function):
    x = torch.tensor([[1, -7, 1 << 40], [3, 0, -(1 << 62)]])
    check(function, x, torch.tensor([2, -7, 9]))


def test_integers_that_divide_are_torchs():
    x = torch.tensor([7, -7, 9])
    check(lambda x: x // 2 + x % 4, x, alone=False)
    check(lambda x: x / 2, x)


SHAPES = [(), (1,), (5,), (1, 7), (6, 1), (6, 7), (3, 1, 7), (2, 6, 7)]


@pytest.mark.parametrize("one", SHAPES)
@pytest.mark.parametrize("two", [(), (7,), (6, 1), (6, 7), (3, 1, 1), (1, 1)])
def test_shapes_that_broadcast(one, two):
    try:
        torch.broadcast_shapes(one, two)
    except RuntimeError:
        pytest.skip("they do not")
    x, y = torch.randn(one), torch.randn(two)
    check(lambda x, y: (x * y + y).exp(), x, y)


@pytest.mark.parametrize("shape", [(40, 70), (3, 200), (200, 3), (3, 5, 40)])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin"])
def test_reductions(name, keepdim, shape):
    x = torch.randn(shape)
    for count in range(1, len(shape) + 1):
        for dims in itertools.combinations(range(len(shape)), count):

            def reduce(x, dims=dims):
                return getattr(x, name)(dims, keepdim=keepdim)

            check(reduce, x)
    check(lambda x: x.sum() + x.mean(), x)
    check(lambda x: x.sum(-1).sum(-1), x.transpose(0, 1))


@pytest.mark.parametrize("name", ["amax", "amin", "sum"])
def test_reductions_of_what_is_no_number(name):
    x = torch.randn(6, 50)
    x[1, 3] = float("nan")
    x[2, 4], x[3, 5] = float("inf"), -float("inf")
    for dims in (0, 1, (0, 1)):
        check(lambda x: getattr(x, name)(dims), x)  # noqa: B023


TRANSPOSED = {
    "copied": lambda x, *_: x.mT.contiguous(),
    "added": lambda x, y: x.mT + y,
    "and not": lambda x, y: torch.cat([(x.mT * y).flatten(), x.flatten()]),
    "summed over rows": lambda x, y: (x.mT * y).sum(-2),
    "summed over columns": lambda x, y: (x.mT * y).sum(-1),
    "summed": lambda x, y: (x.mT * y).sum(),
    "largest": lambda x, y: (x.mT * y).amax(-1),
}


@pytest.mark.parametrize("shape", [(203, 333), (3, 129, 200), (2000, 17)])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_what_lies_across_a_loop_is_read_in_tiles(name, shape):
    x, y = torch.rand(shape), torch.rand(shape).mT.contiguous()
    check(TRANSPOSED[name], x, y)


@pytest.fixture
def sources(monkeypatch):
    """What is compiled."""
    found = []
    monkeypatch.setattr(
        fusion, "load_library", lambda s: found.append(s) or load_library(s)
    )
    return found


def test_a_transposed_copy_is_made_in_tiles(sources):
    check(TRANSPOSED["copied"], torch.randn(203, 333))
    check(torch.neg, torch.randn(203, 333))
    tile = f"s += {source.TILE}"
    assert [tile in written for written in sources] == [True, False]


def test_what_needs_a_loop_runs_along_with_it(sources):
    check(lambda x: (x.exp() + x.sin()).square().sum(1), torch.rand(30, 500))
    check(lambda x: x / x.sum(1, keepdim=True), torch.rand(30, 500))
    names = [set(re.findall(r"void (loops_\d+)", s)) for s in sources]
    assert list(map(len, names)) == [1, 2]


@pytest.mark.parametrize("rows", [70_000, 131_072])
def test_a_long_sum_is_as_exact_as_torchs(rows):
    x = torch.rand(rows, 4, dtype=torch.float32)
    expected = x.double().sum(0)
    for function in (lambda x: x.sum(0), lambda x: x.t().sum(1)):
        result, _ = compute(function, x)
        assert (result / expected - 1).abs().max() < 2e-6


VIEWS = {
    "transposed": lambda x: x.t() + 1,
    "a slice": lambda x: x[1:5, ::2] * 2,
    "a column": lambda x: x[:, 3] + x[:, 4],
    "a part that is reshaped": lambda x: (x * 2)[:4].reshape(2, -1) + 1,
    "reshaped": lambda x: (x + 1).reshape(-1).exp(),
    "split": lambda x: torch.stack(x.exp().split(2, -1)).sum(0),
    "chunks": lambda x: x.chunk(2, -1)[1].exp() + x.chunk(2, -1)[0],
    "expanded": lambda x: x.exp()[:, :1].expand(6, 8) + x,
    "twice over": lambda x: x.exp() + x.exp().t().sum(1),
    "of what is transposed": lambda x: (x.t().exp() * 2).t() + x,
    "a diagonal": lambda x: x.exp()[:, :6].diagonal() * 2,
    "contiguous": lambda x: x.t().contiguous() + 1,
    "a view alone": lambda x: x.exp().t(),
    "a part of a result": lambda x: x.exp()[2:],
    "softmax": lambda x: (
        (x - x.amax(1, True)).exp() / (x - x.amax(1, True)).exp().sum(1, True)
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    x = torch.randn(6, 8)
    for given in (x, torch.randn(8, 6).t(), torch.randn(7, 9)[1:, 1:]):
        result, _ = compute(VIEWS[name], given)
        expected = VIEWS[name](given)
        torch.testing.assert_close(result, expected)
        assert result.stride() == expected.stride()


@pytest.mark.parametrize("name", VIEWS)
def test_inputs_that_begin_later_in_their_storage(name):
    given = torch.randn(3, 6, 8)
    fused = fuse(record(VIEWS[name], given[0].clone()), [given[0].clone()])
    for part in given:
        torch.testing.assert_close(fused(part)[0], VIEWS[name](part))


def test_views_that_torchs_operators_take():
    given = torch.randn(3, 6, 8)

    def function(x):
        one = torch.linalg.qr(x.t()[:, 1:5])[1].diagonal().abs().sum()
        return one + torch.cumsum(x[2:].exp()[1:], 0).sum() + x[1].cumsum(0)

    fused = fuse(record(function, given[0].clone()), [given[0].clone()])
    for part in given:
        torch.testing.assert_close(fused(part)[0], function(part))


def test_parts_of_a_layer_that_are_changed_in_place():
    def function(x, weight, bias):
        y = torch.nn.functional.linear(x, weight, bias)
        first, second = y.split(2, -1)
        first.exp_()
        return y.sum(0) + second.sum() + y.t()[0].sum()

    check(function, *map(torch.randn, ((6, 3), (4, 3), 4)))


def test_views_of_draws():
    """Which another operator draws, for Inductor's sake."""

    def draw(x):
        drawn = torch.empty(3, 4).exponential_()
        coin = torch.bernoulli(x)
        return [drawn.t()[1:] * 2, drawn.sum(0), coin.t() + 1, coin[1] - x[0]]

    x = torch.rand(3, 4)
    graph = compile_graph(draw, [x])
    torch.manual_seed(3)
    expected = draw(x)
    torch.manual_seed(3)
    for ours, theirs in zip(graph(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_is_no_plain_number_is_torchs():
    x = torch.randn(5, 2)
    for function in (
        lambda x: torch.view_as_complex(x).abs() + 1,
        lambda x: torch.view_as_complex(x).conj().imag * 2,
        lambda x: (torch.view_as_complex(x) * 2).real.sum() + x.sum(),
        lambda x: x.view(torch.int64) + 1,
        lambda x: (x.half() * 2).float().sum(),
    ):
        result, _ = compute(function, x)
        torch.testing.assert_close(result, function(x))


def test_a_reduction_of_one_number():
    for dims in ([], [0], [-1]):
        check(lambda x: (x * 2).sum(dims), torch.tensor(3.0))  # noqa: B023


def test_operators_without_a_layout_of_their_own():
    def function(x):
        return torch._sample_dirichlet(x.exp()) * 2

    x = torch.randn(5, 3)
    fused = fuse(record(function, x), [x])
    torch.manual_seed(1)
    expected = function(x)
    torch.manual_seed(1)
    torch.testing.assert_close(fused(x)[0], expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.full((3,), 0.1, dtype=torch.float32),
        lambda x: x * torch.full((3,), 2.00002, dtype=torch.int64),
        lambda x: x * torch.full((3,), 5, dtype=torch.bool),
        lambda x: x * x.long().new_full((3,), 2.7),
        lambda x: x * torch.ones(3, dtype=torch.float32).view(torch.int32),
    ],
)
def test_constants_are_of_their_own_dtype(function):
    x = torch.randn(3, dtype=torch.float64)
    result, _ = compute(function, x)
    torch.testing.assert_close(result, function(x))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_fractions_become_integers_as_torch_makes_them(dtype):
    x = torch.tensor([300.5, -2.5, 1e10, 1e30, 7.9], dtype=torch.float64)
    result, _ = compute(lambda x: x.to(dtype) * 2.0, x)
    assert torch.equal(result, x.to(dtype) * 2.0)


def test_integers_wrap_around():
    most = torch.tensor([torch.iinfo(torch.int64).max, 3])
    check(lambda x: (x + 1 > x) | (x * 2 < x), most)


def test_what_is_changed_in_place():
    def function(x, y):
        before = x * 2
        x.add_(y)
        after = x.exp() + before
        new = torch.zeros(3)
        new[1] = y.sum()
        first = new * 2
        new.mul_(0.5)
        return after.sum() + before.sum() + (first - new).sum()

    one, two = torch.randn(3), torch.randn(3)
    graph = record(function, one.clone(), two)
    x, y = one.clone(), one.clone()
    (result,) = fuse(graph, [x, two])(x, two)
    assert torch.allclose(result, function(y, two))
    assert torch.equal(x, y)


def test_inputs_that_share_a_storage():
    def function(x, y):
        before = y * 2
        x.mul_(3)
        return before + y

    graph = record(function, torch.ones(4), torch.ones(4))
    fused = fuse(graph, [torch.ones(4), torch.ones(4)])
    x, y = torch.ones(4), torch.ones(4)
    assert torch.equal(fused(x, x)[0], function(y, y))
    assert torch.equal(x, y)


def test_random_numbers_keep_their_order():
    def function(x):
        one = torch.randn(3) * x
        two = torch.rand(3) + torch.empty(3).normal_()
        return one.exp() + two

    x = torch.ones(3)
    graph = record(function, x)
    torch.manual_seed(3)
    expected = function(x)
    torch.manual_seed(3)
    assert torch.allclose(fuse(graph, [x])(x)[0], expected)


@pytest.mark.parametrize("shape", [(300, 500), (5, 40_000), (40_000, 5)])
def test_threads_change_nothing(shape):
    x, y = torch.randn(shape), torch.randn(shape[1])
    functions = [
        lambda x, y: ((x * y).tanh() + y).sum(1),
        lambda x, y: (x.exp() * y).sum(0) + x.amax(0),
        lambda x, y: (x.sin() + y).sum(),
    ]
    threads = torch.get_num_threads()
    try:
        for function in functions:
            torch.set_num_threads(1)
            fused = fuse(record(function, x, y), [x, y])
            (one,) = fused(x, y)
            torch.set_num_threads(4)
            (four,) = fused(x, y)
            assert torch.equal(one, four)
            torch.testing.assert_close(one, function(x, y))
    finally:
        torch.set_num_threads(threads)


def test_bfloat16_is_rounded_as_torch_rounds_it():
    x = torch.tensor([*EDGES, 1.00390625, 1.01171875, 3.4e38])
    x = torch.cat([x, torch.randn(500)]).float()
    check(lambda x: x.exp().bfloat16(), x)
    check(lambda x: x.float() * 2, x.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bfloat16_is_rounded_where_nothing_is_stored(dtype):
    x = torch.randn(300, dtype=torch.float32)
    check(lambda x: x.bfloat16().to(dtype) * 3, x)


def test_a_graph_of_another_kind_is_refused():
    x = torch.randn(3).to_sparse()
    graph = record(lambda x: x * 2, torch.randn(3))
    with pytest.raises(UnsuitableError, match="strided"):
        fuse(graph, [x])


def test_a_library_is_compiled_once(monkeypatch):
    source = "int three(void) { return 3; }"
    assert load_library(source).three() == 3

    def fail(*_, **__):
        raise AssertionError("it was compiled again")

    monkeypatch.setattr(compiler, "_compile", fail)
    assert load_library(source).three() == 3


def test_a_compiler_that_fails():
    with pytest.raises(CompilerError, match="error"):
        load_library("this is not C")


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    compiler.find_compiler.cache_clear()
    with pytest.raises(CompilerError, match="expected gcc"):
        load_library("int four(void) { return 4; }")
    compiler.find_compiler.cache_clear()


def test_a_compiler_that_takes_too_long(monkeypatch):
    def run(command, **_):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(CompilerError, match="timed out"):
        compiler._compile("gcc", [], "", compiler.Path("x.so"))


def test_inductor_compiles_where_there_is_no_gcc(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    compiler.find_compiler.cache_clear()
    losses = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        vae = build(VAEConfig(hidden=(5,)), data_dim=6)
        svi = kind(vae.model, vae.guide, Adam({"lr": 0.01}), Trace_ELBO())
        x = torch.rand(4, 6)
        losses.append([svi.step(x) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert "torch._inductor.compile_fx" in sys.modules
    compiler.find_compiler.cache_clear()
