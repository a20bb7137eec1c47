"""Values that Python or torch reads, and masks: compiled, against eager."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints, transforms
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoMultivariateNormal,
    AutoNormalizingFlow,
)
from pyro.optim import Adam
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pyro_vae.svi import CompiledSVI, DynamicPairError, compile_graph
from tests.models import keep_the_record

X = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).reshape(2, 3, 4)
TWO, MINUS = torch.tensor(1), torch.tensor(-1)
LONG = torch.tensor([0, 2, 1])
ROWS = torch.tensor([True, False])
COLUMNS = torch.arange(4) > 1
LOWER = torch.ones(3, 4).tril().bool()
INDICES = {
    "number": lambda: TWO,
    "negative": lambda: MINUS,
    "second": lambda: (slice(None), TWO),
    "last": lambda: (..., MINUS),
    "before an ellipsis": lambda: (TWO, ..., 2),
    "after a new axis": lambda: (None, TWO, slice(1, None)),
    "with a list": lambda: (TWO, LONG),
    "apart": lambda: (TWO, slice(None), LONG),
    "mask": lambda: ROWS,
    "mask and number": lambda: (ROWS, TWO),
    "last mask": lambda: (..., COLUMNS),
    "wide mask": lambda: (..., LOWER),
    "mask after an ellipsis": lambda: (..., TWO, COLUMNS),
}


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


def run(model, guide, data, loss, engine, count=6):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = engine(model, guide, Adam({"lr": 0.01}), loss)
    return [svi.step(*each) for each in [data] * count]


def check(make_pair, data, make_loss=Trace_ELBO):
    """Compares the losses of both engines, each on a pair of its own."""
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.set_rng_seed(0)
        results.append(run(*make_pair(), data, make_loss(), engine))
    assert results[0] == pytest.approx(results[1], rel=1e-9)


@pytest.mark.parametrize("make", INDICES.values(), ids=INDICES.keys())
def test_an_index_gives_what_torch_gives(make):
    def take(x):
        part = (2 * x)[make()]
        return [part, *torch.autograd.grad(part.square().sum(), x)]

    x = X.clone().requires_grad_()
    for ours, other in zip(compile_graph(take, [x])(x), take(x), strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("make", INDICES.values(), ids=INDICES.keys())
@pytest.mark.parametrize("value", ["number", "tensor"])
def test_an_assignment_gives_what_torch_gives(make, value):
    def put(x):
        y = 2 * x
        y[make()] = 3.0 if value == "number" else 2 * x[make()]
        return [y, *torch.autograd.grad(y.square().sum(), x)]

    x = X.clone().requires_grad_()
    for ours, other in zip(compile_graph(put, [x])(x), put(x), strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("sign", [1, -1])
def test_entries_that_stay_where_they_are_need_no_fixed_mask(sign):
    def put(x):
        mask, y = x > 0, 2 * x
        y[mask] = (3 * x)[mask]
        y[~mask] = 0.5
        return [y, *torch.autograd.grad(y.square().sum(), x)]

    graph = compile_graph(put, [X.clone().requires_grad_()])
    x = (sign * X.flip(1)).requires_grad_()
    for ours, other in zip(graph(x), put(x), strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize(
    ("read", "changed"),
    [
        (lambda x: x[x > 0], X.flip(0)),
        (lambda x: x.masked_select(x > 0), X.flip(0)),
        (lambda x: torch.arange(x.sum().long() + 3), X + 1),
        (lambda x: x.flatten()[: (x > 0).sum()], X + 1),
        (lambda x: torch.unique(x), X + 1),
        (lambda x: torch.nonzero(x > 0), X + 1),
        (lambda x: torch.ones(len(x.long().unique())), 100 * X),
        (lambda x: nn.functional.one_hot(x.long() + 3).double(), 2 * X + 1),
        (
            lambda x: torch.arange(2).repeat_interleave(x[0, 0, :2].long() + 3),
            -X,
        ),
        (lambda x: x + torch.equal(x, X), X + 1),
        (lambda x: x + torch.allclose(x, X), X + 1),
        (
            lambda x: torch.bincount(x.flatten().long() + 3, x.flatten()),
            2 * X + 1,
        ),
    ],
)
def test_a_shape_may_depend_on_an_argument_that_does_not_change(read, changed):
    graph = compile_graph(lambda x: [read(x)], [X])
    assert torch.equal(graph(X)[0], read(X))
    with pytest.raises(DynamicPairError, match="when the step was recorded"):
        graph(changed)


def test_what_is_counted_may_change_but_not_its_range():
    def count(x, weights):
        return [torch.bincount(x, weights, minlength=3)]

    x, weights = torch.tensor([0, 2, 2]), torch.ones(3)
    graph = compile_graph(count, [x, weights])
    assert graph(x, 2 * weights)[0].tolist() == [2.0, 0.0, 4.0]
    with pytest.raises(DynamicPairError, match=r"torch\.bincount"):
        graph(torch.tensor([0, 2, 3]), weights)


def test_a_shape_may_not_depend_on_a_draw():
    with pytest.raises(DynamicPairError, match=r"x\[mask\]"):
        compile_graph(lambda x: [x[torch.randn(2, 3, 4) > 0]], [X])


def correlated(y):
    root = pyro.sample("root", dist.LKJCholesky(3, 1.5))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(3)).to_event(1))
    with pyro.plate("points", len(y)):
        normal = dist.MultivariateNormal(
            torch.zeros(3), scale_tril=scale[:, None] * root
        )
        pyro.sample("y", normal, obs=y)


@pytest.mark.parametrize("guide", [AutoDelta, AutoMultivariateNormal])
def test_an_lkj_prior(guide):
    data = (torch.randn(6, 3),)
    check(lambda: (correlated, guide(correlated)), data)


def test_a_flow_as_the_guide():
    def make():
        return correlated, AutoNormalizingFlow(correlated, transforms.planar)

    check(make, (torch.randn(6, 3),))


@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_splines(order):
    """Their masks depend on parameters, and they assert something."""

    def make():
        flow = transforms.spline(3, order=order)

        def model(y):
            pyro.module("flow", flow)
            flow.clear_cache()
            base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
            with pyro.plate("points", len(y)):
                made = dist.TransformedDistribution(base, [flow])
                pyro.sample("y", made, obs=y)

        return model, lambda y: None

    check(make, (3 * torch.randn(6, 3),))


@pytest.mark.parametrize("way", ["sequential", "parallel"])
def test_enumeration_of_a_global_site(way):
    def model(y):
        which = pyro.sample("which", dist.Categorical(torch.ones(2) / 2))
        places = pyro.param("places", torch.tensor([0.0, 1.0]))
        with pyro.plate("points", len(y)):
            pyro.sample("y", dist.Normal(places[which], 1.0), obs=y)

    def guide(y):
        q = pyro.param("q", torch.ones(2) / 2, constraint=constraints.simplex)
        pyro.sample("which", dist.Categorical(q), infer={"enumerate": way})

    check(
        lambda: (model, guide),
        (torch.randn(5),),
        lambda: TraceEnum_ELBO(max_plate_nesting=1),
    )


def test_a_single_draw_as_an_index():
    def model(y):
        which = pyro.sample("which", dist.Categorical(torch.ones(3) / 3))
        places = pyro.param("places", torch.tensor([0.0, 1.0, 2.0]))
        with pyro.plate("points", len(y)):
            pyro.sample("y", dist.Normal(places[which], 1.0), obs=y)

    def guide(y):
        q = pyro.param("q", torch.ones(3) / 3, constraint=constraints.simplex)
        pyro.sample("which", dist.Categorical(q))

    check(lambda: (model, guide), (torch.randn(5),))


@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_sequences_have_a_graph_for_their_lengths(is_sorted):
    def make():
        net = nn.GRU(2, 3, batch_first=True)

        def model(y, lengths):
            pyro.module("net", net)
            packed = pack_padded_sequence(
                y, lengths, batch_first=True, enforce_sorted=is_sorted
            )
            out, _ = pad_packed_sequence(net(packed)[0], batch_first=True)
            with pyro.plate("sequences", len(y)):
                mean = out.sum((1, 2))
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y[:, 0, 0])

        return model, lambda y, lengths: None

    y, results = torch.randn(3, 4, 2), []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = engine(*make(), Adam({"lr": 0.01}), Trace_ELBO())
        lengths = [[4, 3, 1], [4, 3, 1], [4, 2, 1], [4, 3, 1]]
        if not is_sorted:
            lengths = [each[::-1] for each in lengths]
        results.append([svi.step(y, torch.tensor(each)) for each in lengths])
    assert results[0] == pytest.approx(results[1], rel=1e-9)
    assert svi.num_compilations == 2
