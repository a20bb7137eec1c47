"""Idioms of Pyro's own examples, compiled, against pyro.infer.SVI."""

import argparse
import datetime
import functools
import logging
import math
import types
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    EnergyDistance,
    JitTrace_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import StableReparam
from pyro.optim import Adam
from torch import nn

from pyro_vae.svi import CompiledSVI, DynamicPairError, NonFiniteLossError
from tests.models import keep_the_record

log = logging.getLogger(__name__)  # a name that the model's code has, too
X = torch.ones(1, dtype=torch.float64)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


def scaled(x, options=None):
    """A model whose options hold a scale."""
    loc = pyro.param("loc", lambda: torch.tensor(0.0))
    scale = 1.0
    if hasattr(options, "scale"):
        scale = options.scale
    elif callable(options):
        scale = options(2.0)
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    x = x.exp().log()
    with pyro.plate("points", len(x)):
        pyro.sample("x", dist.Normal(loc + z, scale), obs=x)


def guide(x, options=None):
    center = pyro.param("center", lambda: torch.tensor(0.5))
    pyro.sample("z", dist.Normal(center, 0.7))


def times(factor, number):
    return factor * number


def halved(number):
    return number / 2


class Halved:
    scale = 0.5


OPTIONS = {
    "nothing": lambda step: None,
    "namespace": lambda step: argparse.Namespace(scale=0.5, name="a"),
    "simple namespace": lambda step: types.SimpleNamespace(scale=0.5),
    "function": lambda step: halved,
    "another function": lambda step: halved if step % 2 else abs,
    "partial": lambda step: functools.partial(times, 0.7),
    "annealed partial": lambda step: functools.partial(times, 0.1 * step + 0.1),
    "class": lambda step: Halved,
    "date": lambda step: datetime.date(2020, 1, 1),
    "annealed namespace": lambda step: argparse.Namespace(scale=1.0 + step),
}


def compare(drive):
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        results.append(drive(engine))
    assert results[0] == pytest.approx(results[1], rel=1e-9)


@pytest.mark.parametrize("make", OPTIONS.values(), ids=OPTIONS.keys())
def test_arguments_of_programs(make):
    graphs = []

    def drive(engine):
        svi = engine(scaled, guide, Adam({"lr": 0.1}), Trace_ELBO())
        losses = [svi.step(X, make(step)) for step in range(8)]
        graphs.append(getattr(svi, "num_compilations", None))
        return losses

    compare(drive)
    assert graphs[-1] <= 2


@pytest.mark.parametrize("has_gradient", [True, False])
def test_two_svis_share_parameters_and_an_optimizer(has_gradient):
    """One steps by its moments what only the other has a gradient for."""

    def drive(engine):
        net = nn.Linear(1, 1)

        def first(x):
            pyro.module("net", net)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("points", len(x)):
                pyro.sample("x", dist.Normal(net(z.reshape(1)), 1.0), obs=x)

        def second(x):
            pyro.module("net", net)
            if has_gradient:
                side = pyro.param("side", lambda: torch.tensor(2.0))
                pyro.sample("y", dist.Normal(side, 1.0), obs=X[0])

        optim = Adam({"lr": 0.1})
        pairs = [(first, guide), (second, lambda x: None)]
        svis = [engine(*pair, optim, Trace_ELBO()) for pair in pairs]
        return [svi.step(X) for _ in range(5) for svi in svis]

    compare(drive)


@pytest.mark.parametrize("infer", ["average", "network"])
def test_baselines(infer):
    net = nn.Linear(1, 1)

    def model(x):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.3))
        options = {"use_decaying_avg_baseline": True}
        if infer == "network":
            pyro.module("baseline", net)
            options = {"nn_baseline": lambda x: net(x)[0]}
            options["nn_baseline_input"] = x.detach()
        z = dist.Bernoulli(logits=logit)
        pyro.sample("z", z, infer={"baseline": options})

    start = {name: value.clone() for name, value in net.state_dict().items()}

    def drive(engine):
        net.load_state_dict(start)
        svi = engine(model, guide, Adam({"lr": 0.1}), TraceGraph_ELBO())
        losses = [svi.step(X) for _ in range(6)]
        store = pyro.get_param_store().named_parameters()
        return losses + [value.item() for _, value in store]

    compare(drive)


@pytest.mark.parametrize("skew", [None, 0.3])
def test_reparameterized_stable_distributions(skew):
    """Pyro would take a shortcut far from stability 1."""

    @poutine.reparam(config={"x": StableReparam()})
    def model(x):
        stability = pyro.param("stability", torch.tensor(1.7))
        asymmetry = 0.1 if skew is None else pyro.param("skew", skew.clone)
        with pyro.plate("points", len(x)):
            made = dist.Stable(stability, asymmetry, 1.0, 0.5)
            pyro.sample("x", made, obs=x)

    skew = None if skew is None else torch.tensor(skew)

    def drive(engine):
        pair = model, AutoNormal(model)
        svi = engine(*pair, Adam({"lr": 0.01}), Trace_ELBO())
        return [svi.step(torch.tensor([0.2, 1.3])) for _ in range(4)]

    compare(drive)


def test_a_refusal_outside_of_the_pair_names_pyros_line():
    """A log-density that asks for a value, computed by the estimator."""

    def model(x):
        stability = pyro.param("stability", torch.tensor(1.7))
        pyro.sample("x", dist.StableWithLogProb(stability, 0.1), obs=x[0])

    svi = CompiledSVI(model, lambda x: None, Adam({}))
    with pytest.raises(DynamicPairError, match=r"of pyro\.distributions") as e:
        svi.step(X)
    assert "test_a_refusal" not in str(e.value)


def test_stable_distributions():
    def model(x):
        stability = pyro.param("stability", torch.tensor(1.7))
        with pyro.plate("points", 5):
            draws = pyro.sample("draws", dist.Stable(stability, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(draws.tanh().mean(), 1.0), obs=x)

    def guide(x):
        stability = pyro.param("guess", torch.tensor(1.6))
        with pyro.plate("points", 5):
            stable = dist.Stable(stability, 0.1).has_rsample_(True)
            pyro.sample("draws", dist.Delta(stable.rsample()))

    def drive(engine):
        svi = engine(model, guide, Adam({"lr": 0.01}), EnergyDistance())
        return [svi.step(X) for _ in range(4)]

    compare(drive)


LOSSES = {
    "tail-adaptive": lambda: TraceTailAdaptive_ELBO(
        num_particles=5, vectorize_particles=True
    ),
    "wake-sleep": lambda: ReweightedWakeSleep(
        num_particles=3, vectorize_particles=False
    ),
    "tensor Monte Carlo": lambda: TraceTMC_ELBO(max_plate_nesting=1),
    "Jit": JitTrace_ELBO,
    "a method": lambda: Trace_ELBO(num_particles=2).differentiable_loss,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:Trace:UserWarning", "ignore::FutureWarning")
def test_losses_of_pyro(name):
    def told(x):
        center = pyro.param("center", lambda: torch.tensor(0.5))
        return pyro.sample("z", dist.Normal(center, 0.7))

    if name == "tensor Monte Carlo":
        told = config_enumerate(told, "parallel", num_samples=4, expand=False)

    def drive(engine):
        loss = LOSSES[name]()
        if name == "Jit" and engine is SVI:
            loss = Trace_ELBO()
        svi = engine(scaled, told, Adam({"lr": 0.01}), loss)
        values = [svi.step(X) for _ in range(4)]
        finite = [v for v in np.ravel(values) if v != math.inf]
        return [*finite, pyro.param("center").item()]

    compare(drive)


def test_a_gradient_that_is_not_finite_is_named_where_there_is_no_loss():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    loss = LOSSES["tail-adaptive"]()
    svi = CompiledSVI(model, guide, Adam({"lr": 0.01}), loss)
    assert svi.step(X[0]) == math.inf
    before = pyro.param("center").item()
    with (
        pyro.validation_enabled(False),
        pytest.raises(NonFiniteLossError, match="at site 'x' of the model"),
    ):
        svi.step(torch.nan * X[0])
    assert pyro.param("center").item() == before


def test_the_interface_is_that_of_svi():
    def drive(engine):
        optim = Adam({"lr": 0.1})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            svi = engine(scaled, guide, optim, Trace_ELBO(), num_samples=9)
        return [svi.loss(scaled, guide, X), svi.step(X), svi.evaluate_loss(X)]

    compare(drive)
    with pytest.warns(FutureWarning, match="Predictive"):
        CompiledSVI(scaled, guide, Adam({}), Trace_ELBO(), num_steps=3)


def test_without_any_gradient_steps_are_svis_and_say_so():
    def model(*x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for value in x:
            pyro.sample("x", dist.Normal(z, 1.0), obs=value)

    def drive(engine):
        pair = (model, lambda *x: pyro.sample("z", dist.Normal(0.0, 1.0)))
        svi = engine(*pair, Adam({}), Trace_ELBO())
        shown = warnings.catch_warnings(record=True)
        with shown as said:
            warnings.simplefilter("default")
            losses = [svi.step(*x) for x in ([X], [X], [], [])]
        texts = {str(warning.message)[:28] for warning in said}
        is_ours = engine is CompiledSVI
        assert texts == ({"no parameter has a gradient,"} if is_ours else set())
        return losses

    compare(drive)


def test_containers_that_hold_themselves_are_read():
    settings = {"scale": 0.5}
    settings["self"] = settings
    loop = [1.0]
    loop.append(loop)

    def model(x):
        z = pyro.sample("z", dist.Normal(loop[0], settings["scale"]))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def drive(engine):
        settings["scale"] = 0.5
        svi = engine(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
        losses = [svi.step(X) for _ in range(3)]
        settings["scale"] = 1.5
        return losses + [svi.step(X) for _ in range(3)]

    compare(drive)
