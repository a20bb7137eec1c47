"""The compiled estimators in an unchanged pyro.infer.SVI, against Pyro's."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.optim import SGD, Adam
from torch import nn

from pyro_vae.svi import (
    CompiledRenyiELBO,
    CompiledSVI,
    CompiledTrace_ELBO,
    CompiledTraceEnum_ELBO,
    CompiledTraceGraph_ELBO,
    CompiledTraceMeanField_ELBO,
    NonFiniteLossError,
)
from tests.models import keep_the_record

DATA = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)
PAIRS = [
    (Trace_ELBO, CompiledTrace_ELBO, {"num_particles": 2}),
    (TraceMeanField_ELBO, CompiledTraceMeanField_ELBO, {}),
    (TraceGraph_ELBO, CompiledTraceGraph_ELBO, {}),
    (RenyiELBO, CompiledRenyiELBO, {"alpha": 0.5, "num_particles": 3}),
]


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


def line(y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    x = torch.arange(len(y)) / len(y)
    with pyro.plate("points", len(y)):
        pyro.sample("y", dist.Normal(level + slope * x, 0.3), obs=y)


@config_enumerate
def mixture(y):
    weights = pyro.param("weights", torch.ones(2) / 2, dist.constraints.simplex)
    places = pyro.param("places", torch.tensor([-1.0, 1.0]))
    with pyro.plate("points", len(y)):
        which = pyro.sample("which", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(places[which], 0.5), obs=y)


def nothing(y):
    pass


def run(model, make_guide, loss, count=9, optim=Adam, args=(DATA,)):
    """The losses of some steps and of an evaluation, and the parameters."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = SVI(model, make_guide(), optim({"lr": 0.02}), loss)
    losses = [svi.step(*args) for _ in range(count)]
    losses.append(svi.evaluate_loss(*args))
    params = pyro.get_param_store().named_parameters()
    return torch.tensor(losses), {n: p.detach().clone() for n, p in params}


def check_same(one, other):
    assert torch.allclose(one[0], other[0], rtol=1e-9, atol=0)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert torch.allclose(value, other[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("eager", "compiled", "options"), PAIRS, ids=[p[0].__name__ for p in PAIRS]
)
@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_one_word_changes(eager, compiled, options, guide):
    loss = compiled(**options)
    assert isinstance(loss, eager)
    ours = run(line, lambda: guide(line), loss)
    assert loss.num_compilations == 2  # the step, and the evaluation
    check_same(ours, run(line, lambda: guide(line), eager(**options)))


def test_enumeration():
    options = {"max_plate_nesting": 1}
    ours = run(mixture, lambda: nothing, CompiledTraceEnum_ELBO(**options))
    check_same(ours, run(mixture, lambda: nothing, TraceEnum_ELBO(**options)))


def test_one_estimator_serves_several_pairs():
    loss, expected = CompiledTrace_ELBO(), []
    for estimator in (loss, Trace_ELBO()):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        parts = [(line, kind(line)) for kind in (AutoNormal, AutoDelta)]
        svis = [SVI(*pair, SGD({"lr": 1e-3}), estimator) for pair in parts]
        losses = [svi.step(DATA) for _ in range(4) for svi in svis]
        expected.append(torch.tensor(losses))
    assert torch.allclose(*expected, rtol=1e-9, atol=0)
    assert loss.num_compilations == 2


def test_gradients_of_a_penalty_are_kept():
    results = []
    for loss in (CompiledTrace_ELBO(), Trace_ELBO()):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = AutoNormal(line)
        svi = SVI(line, guide, SGD({"lr": 1e-3}), loss)
        for _ in range(4):
            svi.step(DATA)
            for param in guide.parameters():
                param.square().sum().backward()
        results.append([p.detach().clone() for p in guide.parameters()])
    assert all(map(torch.allclose, *results))


def test_a_loss_that_is_not_finite_touches_nothing():
    pyro.set_rng_seed(0)
    guide = AutoNormal(line)
    svi = SVI(line, guide, Adam({"lr": 0.02}), CompiledTrace_ELBO())
    for _ in range(2):
        svi.step(DATA)
    before = [param.detach().clone() for param in guide.parameters()]
    with pytest.raises(NonFiniteLossError, match="site 'y' of the model"):
        svi.step(DATA * torch.nan)
    assert all(map(torch.equal, before, guide.parameters()))
    assert not any(param.grad.any() for param in guide.parameters())


def test_another_handler_around_the_step_is_refused():
    svi = SVI(line, AutoNormal(line), Adam({}), CompiledTrace_ELBO())
    with poutine.trace(), pytest.raises(ValueError, match="TraceMessenger"):
        svi.step(DATA)


def test_options_that_change_are_seen():
    loss = CompiledTrace_ELBO(num_particles=1)
    svi = SVI(line, AutoNormal(line), Adam({"lr": 1e-9}), loss)
    svi.step(DATA)
    svi.step(DATA)
    loss.num_particles = 2
    svi.step(DATA)
    assert loss.num_compilations == 2


def test_it_is_taken_as_its_parent_by_compiled_svi():
    results = []
    for loss in (CompiledTrace_ELBO(), Trace_ELBO()):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = AutoNormal(line)
        svi = CompiledSVI(line, guide, Adam({"lr": 0.02}), loss)
        results.append(torch.tensor([svi.step(DATA) for _ in range(4)]))
    assert torch.equal(*results)


def test_a_network_of_the_pair():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(1, 4, False), nn.BatchNorm1d(4), nn.Linear(4, 1)
    )
    start = {k: v.clone() for k, v in net.state_dict().items()}

    def model(y):
        pyro.module("net", net)
        mean = net(torch.arange(len(y))[:, None] / 7.0).squeeze(-1)
        with pyro.plate("points", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    results = []
    for loss in (CompiledTrace_ELBO(), Trace_ELBO()):
        net.load_state_dict(start)
        losses, params = run(model, lambda: nothing, loss)
        params |= {k: v.clone() for k, v in net.state_dict().items()}
        results.append((losses, params))
    check_same(*results)


def test_an_unknown_precision():
    with pytest.raises(ValueError, match="precision is 'double'"):
        CompiledTrace_ELBO(precision="double")
