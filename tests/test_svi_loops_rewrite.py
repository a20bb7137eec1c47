"""Operators that are written as simpler ones compute what torch computes."""

import re
from collections import Counter
from unittest import mock

import pytest
import torch
from torch.nn import functional

from pyro_vae.svi.loops import fusion
from pyro_vae.svi.loops.compiler import load_library
from pyro_vae.svi.loops.fusion import fuse
from tests.loops import check, compute, needs_compiler, record
from tests.models import record_graph

pytestmark = needs_compiler

aten = torch.ops.aten


def stack(x, dim):
    return torch.stack([x, x * 2, x + 1], dim)


JOINED = {
    "cat": lambda x: torch.cat([x, x * 2, x[1:]]),
    "cat of columns": lambda x: torch.cat([x, x[:, :2], x.exp()], -1),
    "cat of one": lambda x: torch.cat([x]) * 2,
    "cat of a tensor with itself": lambda x: torch.cat([x, x], 1) + 1,
    "cat in another order": lambda x: torch.cat([x.t(), x.t() + 1]) * 2,
    "stack": lambda x: stack(x, 0) * 2,
    "stack in the middle": lambda x: stack(x, 1),
    "stack at the end": lambda x: stack(x, -1).exp(),
    "stack of numbers": lambda x: torch.stack([x[0, 0], x[1, 1] * 2]),
    "dot": lambda x: x[0].exp().dot(x[1]) + x[2].dot(x[2]),
    "max of a dimension": lambda x: x.max(1)[0] + x.max(1, True)[0],
    "min of a dimension": lambda x: x.min(-2)[0] * 2,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", JOINED)
def test_joined_tensors(name, dtype):
    check(JOINED[name], torch.randn(5, 5, dtype=dtype))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.max(1)[1] + x.max(1)[0],
        lambda x: torch.cat([x, x.new_zeros(0)]) + 1,
        lambda x: torch.cat([torch.view_as_complex(x[:, :2])]).abs(),
    ],
)
def test_what_stays_torchs(function):
    check(function, torch.randn(5, 4), alone=False)


def softmaxes(x):
    return [
        x.logsumexp(-1),
        x.logsumexp((0, 1)),
        x.logsumexp(0, keepdim=True),
        x.t().logsumexp(1),
        x.softmax(-1),
        x.softmax(0),
        x.t().softmax(0),
        x.log_softmax(-1),
        x.log_softmax(0),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", range(9))
def test_softmax(place, dtype):
    x = 9 * torch.randn(6, 7, dtype=dtype)
    x[1], x[2, 3] = -torch.inf, -torch.inf
    x[3, 4], x[4, 5] = torch.inf, torch.nan
    check(lambda x: softmaxes(x)[place] * 2, x)
    check(lambda x: softmaxes(x / 2)[place] * 2, x)
    check(lambda x: softmaxes(x[1:, ::2])[place] * 2, x)


def test_softmax_of_a_number():
    for function in (torch.logsumexp, torch.softmax, torch.log_softmax):
        x = torch.tensor(0.7)
        result, _ = compute(lambda x: function(x, 0) + 1, x)  # noqa: B023
        torch.testing.assert_close(result, function(x, 0) + 1)


GRADIENTS = {
    "softmax": lambda x: (x.softmax(-1) * x.detach()).sum(),
    "log_softmax": lambda x: (x.log_softmax(0) * x.detach()).sum(),
    "logsumexp": lambda x: x.logsumexp(-1).sum(),
    "select": lambda x: (x[2] * x[2, 1] + x[:, -1].sum()).sum(),
    "slice": lambda x: (x[1:3] * x[-2:]).sum() + x[:, ::2].exp().sum(),
    "slice with a step": lambda x: x[1::3].exp().sum() + x[:, -3:-1].sum(),
    "cat": lambda x: torch.cat([x, x * 2]).exp().sum(),
    "a loop": lambda x: sum(
        (x[:, t].exp() * x[:, t - 1]).sum() for t in range(6)
    ),
    "a loop over parts": lambda x: sum(
        x[:, t : t + 3].exp().sum() * x[t, 2] for t in range(5)
    ),
    "a loop that keeps its rows": lambda x: sum(
        x[:, : t + 1][:, -2:].exp().sum() for t in range(6)
    ),
    "rows that are all": lambda x: (x[:5] * x[:5, :6].exp()).sum(),
    "split": lambda x: (x.split(2, 1)[1].exp() * x.split(2, 1)[0]).sum(),
    "unbind": lambda x: sum(row.exp().sum() for row in x.unbind(1)),
    "pad": lambda x: functional.pad(x, (1, 2)).exp().sum(),
    "cross entropy": lambda x: functional.binary_cross_entropy_with_logits(
        x, x.detach().sigmoid(), reduction="none"
    ).sum(),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    def gradient(x):
        x = x.detach().requires_grad_()
        GRADIENTS[name](x).backward()
        return x.grad

    x = torch.randn(5, 6, dtype=torch.float64)
    result, _ = compute(gradient, x)
    torch.testing.assert_close(result, gradient(x))


def test_gradients_of_parts_that_are_used_twice():
    def gradients(x):
        x = x.detach().requires_grad_()
        y = x * 2
        (y[1] * y[2]).sum().backward(inputs=[x, y])
        return (x.grad + y.grad * 3).exp() + y.grad

    def changed(x):
        one, other = x[0] * 2, x[1] * 2
        first = aten.select_backward(one, (5, 6), 0, 1)
        second = aten.select_backward(other, (5, 6), 0, 2)
        other.mul_(9)
        second[0] += one
        return first + second + other

    def shared(x):
        first = aten.select_backward(x[0] * 2, (5, 6), 0, 1)
        second = aten.select_backward(x[1] * 2, (5, 6), 0, 1)
        return (first + second) * second + (first + first)

    x = torch.randn(5, 6, dtype=torch.float64)
    for function in (gradients, changed, shared):
        result, _ = compute(function, x)
        torch.testing.assert_close(result, function(x))


def test_gradients_of_changes_in_place():
    def gradient(x):
        x = x.detach().requires_grad_()
        y = x * 2
        for t in range(4):
            y[t] = x[t + 1].exp() + x[t, 2]
            y[:, t] += x[:, 0] * x[:, 1]
        y.exp().sum().backward()
        return x.grad

    def copies(x):
        y = x.exp()
        z = torch.empty(5, 6, dtype=x.dtype).copy_(y)
        z[1].fill_(2)
        late = torch.empty(5, 6, dtype=x.dtype).copy_(z)
        late[2] += 1
        part = torch.empty(5, 6, dtype=x.dtype).copy_(late)
        return y * 2 + late.t().reshape(5, 6) + part

    def given(x):
        z = torch.empty(5, 6, dtype=x.dtype).copy_(x)
        z[1].fill_(2)
        return z

    x = torch.randn(5, 6, dtype=torch.float64)
    for function in (gradient, copies, given):
        result, _ = compute(function, x)
        torch.testing.assert_close(result, function(x))
        assert (x != 2).all()


def fill_parts(x):
    made = torch.empty(6, 6)
    made.zero_()
    made[1:5, 2] = x[:4, 0]
    made[:, 3:5].copy_(x[:, :1])
    made[5].fill_(2)
    return made + made.t()


def add_in_turn(x):
    total = x * 2
    for row in x:
        total += row
        total[1].mul_(total[2])
    return total.sum(0)


def change_and_read(x):
    y = x.exp()
    before = y.sum()
    y.clamp_(0.5, 2)
    between = y * before
    y[2:4].div_(3).add_(1)
    return between + y


def mask(x):
    flags = x > 0
    flags.logical_and_(x < 1)
    return torch.where(flags, x, x.masked_fill(flags, 7)).masked_fill_(flags, 3)


def convert(x):
    whole = torch.zeros(6, 6, dtype=torch.int64)
    whole.copy_(x > 0)
    flags = torch.empty(6, 6, dtype=torch.bool)
    flags.copy_(whole)
    return whole * 2 + flags


CHANGES = [fill_parts, change_and_read, mask, convert]


@pytest.mark.parametrize("function", CHANGES)
def test_changes_in_place(function):
    check(function, torch.randn(6, 6))


def shift(x):
    y = x.exp()
    y[1:].copy_(y[:-1].clone())
    y[:, 1:] += y[:, :1]
    return y


def of_another_dtype(x):
    y = x.exp()
    return y.mul_(x.double()) + y.add_(x.long())


def spread(x):
    return torch.zeros(6, 6).copy_(x[0]).t().add_(x) * 2


def part_of_an_input(x):
    x = x.clone()
    x.view(-1)[3:9].exp_()
    return x.t() * 2


@pytest.mark.parametrize(
    "function", [add_in_turn, shift, of_another_dtype, spread, part_of_an_input]
)
def test_changes_of_other_kinds(function):
    x = torch.randn(6, 6)
    result, _ = compute(function, x)
    torch.testing.assert_close(result, function(x))


def test_an_empty_tensor_that_torch_fills_too():
    def function(x):
        made = torch.empty(6, 6)
        made[:3].copy_(x[:3])
        made[3:].normal_()
        return made * 2

    x = torch.randn(6, 6)
    fused = fuse(record(function, x), [x])
    torch.manual_seed(0)
    expected = function(x)
    torch.manual_seed(0)
    torch.testing.assert_close(fused(x)[0], expected)


def test_memory_is_used_again():
    def function(x):
        kept = [x.exp()]
        for place in range(12):
            x = (x @ x.t()) / 30 + place
            x = torch.cat([x[:10], x[10:].sin()])
            kept.append(x.cumsum(0) if place == 6 else x.sum(0))
        return sum(each.sum() for each in kept) + x

    check(function, torch.randn(20, 20, dtype=torch.float64), alone=False)


def test_results_stay_what_they_were_after_later_calls():
    """What lies between segments has one memory; what is returned has not."""

    def function(x):
        y = x.exp()
        z = y.cumsum(0)  # torch runs it, in between
        w = (z * y).sin()
        return w + w.cumsum(1), y, y[1:], w.sum()

    inputs = [torch.randn(5, 4, dtype=torch.float64) for _ in range(4)]
    fused = fuse(record_graph(lambda x: list(function(x)), inputs[:1]), inputs)
    results = [fused(x) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        torch.testing.assert_close(tuple(result), function(x))


@pytest.mark.parametrize("dim", [None, 0, 1, -1])
@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (2000, 3)])
def test_all(dim, shape):
    x = torch.rand(shape, dtype=torch.float64)

    def function(x):
        wrong = x < 0
        right = ~wrong
        return ~(right.all() if dim is None else right.all(dim))

    check(function, x)
    for place in range(min(3, shape[0])):
        y = x.clone()
        y[place, -1] = -1
        check(function, y)
        y[:, 0] = torch.nan
        check(lambda x: function(torch.where(x == x, x, -1.0)), y)


def test_all_of_one_value():
    check(lambda x: ~(x.sum() > 0).all(), torch.ones(3))
    check(lambda x: ~(x.sum() > 0).all(), -torch.ones(3))


def test_statistics_that_batch_norm_changes():
    """Its schema does not say that it changes them; loops read them after."""

    def function(x, mean):
        means, variances = mean.repeat(2), torch.ones(4, dtype=x.dtype)
        before = means * 2
        y = aten.native_batch_norm(
            x, None, None, means, variances, True, 0.1, 1e-5
        )[0]
        return y.sin() * (means.exp() + variances - before)

    x = torch.randn(9, 4, dtype=torch.float64)
    check(function, x, torch.randn(2, dtype=torch.float64), alone=False)


def test_what_repeats_is_written_once():
    """As in a loop over time; also in a group of more loops than run as one."""

    def function(x):
        state, total = x[0], 0.0
        for row in x:
            state = (state @ state.t()).tanh() + row.cos()
            total = total + state.sum()
        for place in range(100):
            state = state + 1 / (1 + (place * state).exp())
        return state * total

    x = torch.randn(9, 9, 9, dtype=torch.float64)
    sources = []
    with mock.patch.object(
        fusion,
        "load_library",
        lambda source: sources.append(source) or load_library(source),
    ):
        check(function, x)
    calls = re.findall(r"^(loops_\d+)\(q\)", sources[0], flags=re.M)
    assert max(Counter(calls).values()) >= 8
    assert sources[0].count("__attribute__((noipa))") == len(set(calls))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.int32,
        torch.int64,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.min(1)[0],
        lambda x: x.max(1, keepdim=True)[0],
        lambda x: x.min(0)[1],
        lambda x: torch.dot(x[0], x[1]),
        lambda x: torch.cat([x, x[:1]]),
        lambda x: torch.stack([x, x]),
        lambda x: x.all(1),
        lambda x: x.all(),
        lambda x: x.any(1),
        lambda x: x @ x.t(),
    ],
    ids=[
        "min",
        "max",
        "argmin",
        "dot",
        "cat",
        "stack",
        "rows",
        "all",
        "any",
        "mm",
    ],
)
def test_every_dtype_has_loops_or_torchs_operators(dtype, function):
    """Nothing is rewritten into what is no loop, which Inductor would take."""
    x = torch.tensor([[3, 0, 1, 2], [5, 4, 0, 7], [1, 1, 2, 6]]).to(dtype)
    try:
        expected = function(x)
    except RuntimeError as error:
        pytest.skip(f"torch has it not: {error}")
    result, _ = compute(function, x)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected)
