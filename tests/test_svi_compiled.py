"""The compiled step against Pyro's own, step for step."""

import copy
import math
import random

import numpy as np
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
    autoguide,
)
from pyro.infer.autoguide import AutoNormal
from pyro.optim import SGD, Adam, AdamW, ClippedAdam
from torch import nn

from pyro_vae import MLP, Config, build
from pyro_vae.svi import (
    CompilationError,
    CompiledSVI,
    DynamicPairError,
    NonFiniteLossError,
    compiled,
    graphs,
)
from pyro_vae.svi.optimizers import make_update

PAIRS = [(p, g) for p in ("normal", "laplace") for g in ("normal", "laplace")]


@pytest.fixture
def small_vae():
    """Of linear networks, which are half as much to compile."""
    return build(Config(hidden=(), noise_scale=0.4), data_dim=64)


def run(svi, steps, *args):
    torch.manual_seed(1)
    return torch.tensor([svi.step(*args) for _ in range(steps)])


def assert_close(left, right, rtol=1e-9):
    left, right = torch.as_tensor(left), torch.as_tensor(right)
    error = (left - right).abs().max().item()
    assert error <= rtol * right.abs().max().item(), error


def assert_same_run(make, steps, *args, optim=None, loss=Trace_ELBO, rtol=1e-9):
    """Runs a pair under either engine, each in a param store of its own.

    Args:
        make: Makes the pair, always the same one.
        optim: Makes the optimiser.
    """
    optim = optim or (lambda: Adam({"lr": 1e-2}))
    results = []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            model, guide = make()
            svi = engine(model, guide, optim(), loss())
            losses = run(svi, steps, *args)
            store = pyro.get_param_store()
            params = {k: v.detach().clone() for k, v in store.items()}
        results.append((losses, list(params.values())))
    (expected, expected_params), (losses, params) = results
    assert svi.num_compilations == 1
    assert_close(losses, expected, rtol)
    for left, right in zip(params, expected_params, strict=True):
        assert_close(left, right, rtol)


def vae_pair(dtype=torch.float64, hidden=(16,), **choices):
    def make():
        vae = build(Config(hidden=hidden, **choices), 64).to(dtype)
        return vae.model, vae.guide

    return make


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
def test_it_is_pyros_svi_for_every_prior_and_guide(prior, guide):
    make = vae_pair(prior=prior, guide=guide)
    assert_same_run(make, 200, torch.rand(20, 64), 100)


def test_the_last_smaller_minibatch_and_evaluations(small_vae):
    vae, twin = small_vae, copy.deepcopy(small_vae)
    x = torch.rand(20, 64)
    traces = []
    for one, engine in ((vae, SVI), (twin, CompiledSVI)):
        svi = engine(one.model, one.guide, Adam({"lr": 1e-2}), Trace_ELBO())
        torch.manual_seed(1)
        losses = []
        for step in range(200):
            losses.append(svi.step(x[:6] if step % 5 == 4 else x, 100))
            if step % 50 == 49:
                losses.append(svi.evaluate_loss(x))
        traces.append(losses)
    assert svi.num_compilations == 3
    assert_close(traces[1], traces[0])
    for left, right in zip(twin.parameters(), vae.parameters(), strict=True):
        assert_close(left, right)


@pytest.mark.parametrize("prior", ["normal", "laplace"])
def test_float32(prior):
    x = torch.rand(20, 64, dtype=torch.float32)
    make = vae_pair(torch.float32, prior=prior)
    assert_same_run(make, 200, x, 100, rtol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: Trace_ELBO(num_particles=2),
        lambda: Trace_ELBO(
            num_particles=3, vectorize_particles=True, max_plate_nesting=1
        ),
        lambda: TraceMeanField_ELBO(),
        lambda: RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True),
        lambda: RenyiELBO(alpha=0.5, num_particles=2),
    ],
    ids=["particles", "vectorised", "mean field", "renyi", "renyi loop"],
)
def test_estimators(loss):
    assert_same_run(vae_pair(hidden=()), 20, torch.rand(8, 64), loss=loss)


def mixture():
    """Two sites enumerated in parallel, one in the model, one in the guide."""

    def model(x):
        locs = pyro.param("locs", torch.tensor([-1.0, 0.5, 2.0]))
        weights = pyro.param(
            "weights", torch.ones(3) / 3, constraint=dist.constraints.simplex
        )
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(weights))
            v = pyro.sample(
                "v", dist.Bernoulli(0.3), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", dist.Normal(locs[y] + v, 0.5), obs=x)

    def guide(x):
        scores = pyro.param("scores", torch.randn(3, 2))
        with pyro.plate("data", len(x)):
            logits = torch.stack([x, torch.ones_like(x)], -1) @ scores.T
            pyro.sample(
                "y",
                dist.Categorical(logits=logits),
                infer={"enumerate": "parallel"},
            )

    return model, guide


def test_parallel_enumeration():
    x = torch.randn(12) * 2

    def loss():
        return TraceEnum_ELBO(max_plate_nesting=1)

    assert_same_run(mixture, 50, x, loss=loss)


def test_the_score_function_estimator_too():
    """A guide that cannot be reparameterised: DiCE terms, no enumeration."""

    def make():
        def model(x):
            bias = pyro.param("bias", torch.tensor(0.1))
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Bernoulli(0.4))
                pyro.sample("x", dist.Normal(y + bias, 1.0), obs=x)

        def guide(x):
            slope = pyro.param("slope", torch.tensor(0.3))
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Bernoulli(logits=slope * x))

        return model, guide

    assert_same_run(make, 30, torch.randn(12))


def regression():
    """Global and local latents, constraints, a random subsample."""

    def model(x, y):
        scale = pyro.param(
            "scale", torch.tensor(1.0), constraint=dist.constraints.positive
        )
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=4) as index:
            pyro.sample("y", dist.Normal(x[index] @ w, scale), obs=y[index])

    return model, AutoNormal(model)


OPTIMISERS = {
    "adam": lambda: Adam({"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-3}),
    "decay": lambda: Adam({"lr": 0.02, "weight_decay": 0.1}),
    "amsgrad": lambda: Adam({"lr": 0.02, "amsgrad": True}),
    "clip norm": lambda: Adam({"lr": 0.02}, {"clip_norm": 0.5}),
    "clip value": lambda: Adam({"lr": 0.02}, {"clip_value": 0.5}),
    "adamw": lambda: AdamW({"lr": 0.02, "weight_decay": 0.1}),
    "clipped": lambda: ClippedAdam(
        {"lr": 0.02, "lrd": 0.99, "clip_norm": 0.5, "eps": 1e-3}
    ),
    "by name": lambda: Adam(
        lambda name: {"lr": 0.05 if "scale" in name else 0.01}
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_and_an_autoguide(name):
    x, y = torch.randn(10, 3), torch.randn(10)
    assert_same_run(regression, 30, x, y, optim=OPTIMISERS[name])


def hierarchy(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with pyro.plate("groups", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


@pytest.mark.parametrize(
    "name",
    [
        "AutoMultivariateNormal",
        "AutoLowRankMultivariateNormal",
        "AutoStructured",
        "AutoGaussian",
    ],
)
def test_the_first_step_gives_each_parameter_its_own_gradient(name):
    """These guides meet their parameters in another order at first."""
    y = torch.linspace(-3, 9, 4)
    results = []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            guide = getattr(autoguide, name)(hierarchy)
            optim = Adam({"lr": 0.01})
            svi = engine(hierarchy, guide, optim, Trace_ELBO())
            run(svi, 1, y)
            store = pyro.get_param_store()
            moments = {
                store.param_name(param): one.state[param]["exp_avg"].clone()
                for param, one in optim.optim_objs.items()
            }
        results.append(moments)
    expected, moments = results
    assert set(moments) == set(expected)
    for param, moment in moments.items():
        assert_close(moment, expected[param])


def test_steps_after_a_first_one_that_made_the_parameters():
    def make():
        guide = autoguide.AutoMultivariateNormal(hierarchy)
        return hierarchy, guide

    assert_same_run(make, 20, torch.linspace(-3, 9, 4))


def test_no_kernel_reads_a_gradient_of_another_shape_or_layout():
    param = nn.Parameter(torch.zeros(3, 4))
    with pyro.get_param_store().scope():
        pyro.param("param", param)
        update = make_update(Adam({"lr": 0.1}), [param])
        with pytest.raises(ValueError, match=r"shape \(4, 3\).*\(3, 4\)"):
            update([torch.ones(4, 3)], None)
        # One number in memory, and columns where the parameter has rows.
        for grad in (torch.ones(1).expand(3, 4), torch.rand(4, 3).t()):
            before = param.detach().clone()
            update([grad], None)
            moved = param.detach() - before
            assert ((moved < 0) & (moved > -0.2)).all()


def test_a_torch_optimiser_updates_what_it_was_given():
    vae = build(Config(hidden=(16,)), 64)
    twin, x = copy.deepcopy(vae), torch.rand(8, 64)
    given = list(vae.guide.parameters())
    kept = [p.clone() for p in vae.model.parameters()]
    optim = torch.optim.SGD(given, lr=1e-4)
    run(CompiledSVI(vae.model, vae.guide, optim), 1, x)
    torch.manual_seed(1)
    Trace_ELBO()(twin.model, twin.guide)(x).backward()
    torch.optim.SGD(twin.guide.parameters(), lr=1e-4).step()
    for left, right in zip(given, twin.guide.parameters(), strict=True):
        assert_close(left, right)
    for left, right in zip(kept, vae.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_drawing_the_initial_parameters_takes_its_random_numbers():
    """As under Pyro's SVI, where the first step draws them, too."""

    def make():
        def model(x):
            loc = pyro.param("loc", lambda: torch.randn(3))
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x)

        def guide(x):
            mean = pyro.param("mean", lambda: torch.randn(3))
            pyro.sample("z", dist.Normal(mean, 0.1).to_event(1))

        return model, guide

    assert_same_run(make, 10, torch.randn(5))


class ExampleVAE(nn.Module):
    """The shape of Pyro's example: bound methods and pyro.module."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = MLP(64, 6, (16,)), MLP(3, 64, (16,))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = torch.zeros(x.shape[0], 3, dtype=x.dtype, device=x.device)
            scale = torch.ones(x.shape[0], 3, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            mean = torch.sigmoid(self.decoder(z))
            pyro.sample(
                "obs",
                dist.Bernoulli(mean, validate_args=False).to_event(1),
                obs=x,
            )
            return mean

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            q = dist.Normal(loc, log_scale.exp()).to_event(1)
            pyro.sample("latent", q)


def test_a_pair_written_with_pyro_module():
    def make():
        vae = ExampleVAE()
        return vae.model, vae.guide

    assert_same_run(make, 50, torch.rand(8, 64))


class Normalised(nn.Module):
    """A pair with running statistics, changed in place by every run."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        pyro.module("norm", self.norm)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            q = dist.Normal(self.norm(x) + z, 1.0).to_event(1)
            pyro.sample("x", q, obs=x)


def normal_guide(x):
    loc = pyro.param("loc", torch.tensor(0.2))
    pyro.sample("z", dist.Normal(loc, 1.0))


def test_buffers_change_as_often_as_under_pyros_svi():
    x, statistics = torch.randn(8, 3), []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            model = Normalised()
            svi = engine(model, normal_guide, Adam({"lr": 1e-2}), Trace_ELBO())
            run(svi, 5, x)
            statistics.append([b.clone() for b in model.norm.buffers()])
            model.eval()
            losses = run(svi, 3, x)
            statistics[-1].append(losses)
    for left, right in zip(*statistics, strict=True):
        assert_close(left.double(), right.double())
    assert statistics[1][2] == 5 and svi.num_compilations == 2


def svi_of(vae, **options):
    return CompiledSVI(vae.model, vae.guide, Adam({"lr": 1e-2}), **options)


def test_each_shape_and_value_compiles_once(small_vae):
    svi, x = svi_of(small_vae), torch.rand(9, 64)
    for _ in range(3):
        svi.step(x)
        svi.step(x[:4])
        svi.step(x[:4].T.contiguous().T)  # other strides, the same graph
        svi.step(x[:4], num_data=100)
    assert svi.num_compilations == 3


def test_a_number_that_changes_at_every_step_is_warned_of(
    small_vae, monkeypatch
):
    monkeypatch.setattr(compiled, "MANY", 2)
    svi, x = svi_of(small_vae), torch.rand(4, 64)
    svi.step(x, 100)
    with pytest.warns(UserWarning, match="2 graphs .* pass a number that"):
        svi.step(x, 101)


def test_one_tensor_given_twice_is_not_frozen_into_two():
    def model(x, y):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc * y, 1.0), obs=x)

    svi = CompiledSVI(model, lambda x, y: None, Adam({"lr": 0.0}))
    x, y = torch.randn(2, 5)
    for _ in range(2):
        both, other = svi.step(x, x), svi.step(x, y)
    assert both == pytest.approx(svi.step(x, x), rel=1e-12)
    assert svi.step(x, x.clone()) == pytest.approx(both, rel=1e-12)
    assert svi.step(x, y) == pytest.approx(other, rel=1e-12)


def test_a_replaced_network_and_a_cleared_store_are_noticed(small_vae):
    svi, x = svi_of(small_vae), torch.rand(8, 64)
    run(svi, 3, x)
    decoder = MLP(2, 64, (), output_activation="sigmoid")
    small_vae.likelihood.decoder = decoder
    before = [p.clone() for p in decoder.parameters()]
    run(svi, 3, x)
    after = list(decoder.parameters())
    assert not any(map(torch.equal, before, after))
    pyro.clear_param_store()
    before = [p.clone() for p in small_vae.parameters()]
    run(svi, 3, x)
    assert not any(map(torch.equal, before, small_vae.parameters()))


EDITS = {
    "frozen": lambda vae: vae.likelihood.decoder.requires_grad_(False),
    "appended": lambda vae: vae.likelihood.decoder.layers.append(nn.Tanh()),
    "buffer": lambda vae: vae.prior.register_buffer(
        "loc", torch.full((2,), 3.0)
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_module_is_noticed(small_vae, edit):
    twin, x = copy.deepcopy(small_vae), torch.rand(8, 64)
    losses = []
    for vae, engine in ((small_vae, SVI), (twin, CompiledSVI)):
        svi = engine(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())
        run(svi, 3, x)
        EDITS[edit](vae)
        losses.append(run(svi, 3, x))
    assert_close(losses[1], losses[0])
    for left, right in zip(
        twin.parameters(), small_vae.parameters(), strict=True
    ):
        assert_close(left, right)


def test_modules_that_a_plain_function_calls_are_noticed():
    """Their running statistics, and their mode; modes compile once each."""
    x, results = torch.randn(8, 3), []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))

            def model(x, network=network):
                pyro.module("network", network)
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with pyro.plate("data", len(x)):
                    q = dist.Normal(network(x) + z, 1.0).to_event(1)
                    pyro.sample("x", q, obs=x)

            svi = engine(model, normal_guide, Adam({"lr": 1e-2}), Trace_ELBO())
            losses = [run(svi, 3, x)]
            for training in (False, True, False):
                network.train(training)
                losses.append(run(svi, 2, x))
            results.append([*losses, network[0].running_mean.clone()])
            assert network[0].num_batches_tracked == 5
    assert svi.num_compilations == 2
    for left, right in zip(*results, strict=True):
        assert_close(right, left)


def test_options_may_change_between_steps(small_vae):
    twin, x = copy.deepcopy(small_vae), torch.rand(8, 64)
    for vae, engine in ((small_vae, SVI), (twin, CompiledSVI)):
        optim = Adam({"lr": 1e-2})
        svi = engine(vae.model, vae.guide, optim, Trace_ELBO())
        run(svi, 3, x)
        for param in vae.guide.parameters():
            optim.optim_objs[param].param_groups[0]["lr"] = 1e-3
        run(svi, 3, x)
    for left, right in zip(
        twin.parameters(), small_vae.parameters(), strict=True
    ):
        assert_close(left, right)


@pytest.mark.parametrize("name", ["adam", "clipped"])
def test_the_engines_can_take_turns(small_vae, name):
    twin, x = copy.deepcopy(small_vae), torch.rand(8, 64)
    optim = OPTIMISERS[name]()
    eager = SVI(twin.model, twin.guide, optim, Trace_ELBO())
    compiled_svi = CompiledSVI(twin.model, twin.guide, optim)
    for svi in (eager, compiled_svi, eager, compiled_svi):
        run(svi, 3, x)
    svi = SVI(
        small_vae.model, small_vae.guide, OPTIMISERS[name](), Trace_ELBO()
    )
    for _ in range(4):
        run(svi, 3, x)
    for left, right in zip(
        twin.parameters(), small_vae.parameters(), strict=True
    ):
        assert_close(left, right)


def test_centered_variance_is_refused(small_vae):
    optim = ClippedAdam({"lr": 0.1, "centered_variance": True})
    svi = CompiledSVI(small_vae.model, small_vae.guide, optim)
    with pytest.raises(ValueError, match="centered_variance=True; expected"):
        svi.step(torch.rand(8, 64))


def test_a_bad_loss_names_the_site_and_touches_nothing(small_vae):
    svi, x = svi_of(small_vae), torch.rand(8, 64)
    run(svi, 3, x)
    before = [p.clone() for p in small_vae.parameters()]
    bad = x.clone()
    bad[0, 0] = math.inf
    with pytest.raises(NonFiniteLossError, match="at site 'z' of the guide"):
        svi.step(bad)
    assert all(map(torch.equal, before, small_vae.parameters()))
    assert math.isfinite(svi.step(x))


def chance():
    return random.choice([1.0, 2.0]) + random.random()


def dynamic_model(kind):
    state = {"runs": 0}

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        scale = 1.0
        if kind == "branch":
            scale = 1.0 if x.sum() > 0 else 2.0
        elif kind == "item":
            scale = 1.0 if x.sum().item() > 0 else 2.0
        elif kind == "float":
            scale = abs(float(x[0])) + 1.0
        elif kind == "list":
            scale = abs(x.tolist()[0]) + 1.0
        elif kind == "numpy":
            scale = abs(x.numpy()[0]) + 1.0
        elif kind == "equal":
            scale = 1.0 if torch.equal(x, x + 1) else 2.0
        elif kind == "format":
            scale = float(f"{x[0]:.2f}") + 1.0
        elif kind == "random":
            scale = chance()
        elif kind == "numpy random":
            scale = float(np.random.rand()) + 1.0
        elif kind == "made tensor":
            scale = torch.tensor(chance())
        elif kind == "state":
            state["runs"] += 1
            scale = float(state["runs"])
        elif kind == "new parameter":
            state["runs"] += 1
            pyro.param(f"extra {state['runs']}", torch.tensor(1.0))
            scale = float(state["runs"])
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    return model


@pytest.mark.parametrize(
    "kind",
    [
        "branch",
        "item",
        "float",
        "list",
        "numpy",
        "equal",
        "format",
        "random",
        "numpy random",
        "made tensor",
        "state",
        "new parameter",
    ],
)
def test_a_pair_that_is_not_static_is_refused(kind):
    """Never frozen in silence; no parameter moves, no random number goes."""
    model, x = dynamic_model(kind), torch.rand(4)
    svi = CompiledSVI(model, lambda x: None, Adam({"lr": 1e-2}))
    state = torch.get_rng_state()
    with pytest.raises(DynamicPairError, match=r"use .*pyro.infer.SVI"):
        svi.step(x)
    assert pyro.param("loc").item() == 0.5
    assert torch.equal(torch.get_rng_state(), state)


def test_arithmetic_with_item_is_not_frozen():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        scale = x.abs().mean().item() + 0.1
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    def losses(engine):
        with pyro.get_param_store().scope():
            svi = engine(model, lambda x: None, Adam({"lr": 0.1}), Trace_ELBO())
            return [svi.step(x) for x in torch.arange(1.0, 13.0).split(3)]

    assert_close(losses(CompiledSVI), losses(SVI))


def test_a_handler_around_the_step_is_refused(small_vae):
    svi, x = svi_of(small_vae), torch.rand(8, 64)
    svi.step(x)
    with (
        poutine.scale(scale=2.0),
        pytest.raises(ValueError, match="inside a Pyro handler; expected"),
    ):
        svi.step(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": SGD({"lr": 0.1})}, "is SGD; expected pyro.optim.Adam"),
        ({"optim": "adam"}, "is str; expected pyro.optim.Adam"),
        (
            {"optim": torch.optim.LBFGS([torch.ones(1)])},
            "is LBFGS, which evaluates",
        ),
        ({"loss": TraceGraph_ELBO()}, "is TraceGraph_ELBO; expected one of"),
        ({"precision": "low"}, "'low'; expected one of highest"),
    ],
)
def test_what_it_cannot_take_is_named(small_vae, options, message):
    options = {"optim": Adam({"lr": 0.1}), **options}
    with pytest.raises(ValueError, match=message):
        CompiledSVI(small_vae.model, small_vae.guide, **options)


def test_an_argument_that_is_no_plain_value_is_refused():
    def model(x):
        pyro.param("loc", torch.tensor(0.5))

    svi = CompiledSVI(model, lambda x: None, Adam({"lr": 0.1}))
    for value in (np.ones(3), object()):
        with pytest.raises(ValueError, match="expected tensors, numbers, str"):
            svi.step(value)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        svi.step(torch.ones(3))


def test_without_a_compiler_a_sentence(small_vae, monkeypatch):
    def fail(*_):
        raise OSError("no such compiler")

    monkeypatch.setattr(torch._inductor, "compile", fail)
    svi, x = svi_of(small_vae), torch.rand(8, 64)
    with pytest.raises(
        CompilationError, match=r"\(no such compiler\); expected a C\+\+"
    ):
        svi.step(x)


DRAWS = {
    "Bernoulli": lambda p: dist.Bernoulli(p),
    "Exponential": lambda p: dist.Exponential(p),
    "Cauchy": lambda p: dist.Cauchy(p, 1.0),
    "Geometric": lambda p: dist.Geometric(p),
    "LogNormal": lambda p: dist.LogNormal(p, 1.0),
    "Categorical": lambda p: dist.Categorical(p.expand(4, 3)),
    "Gamma": lambda p: dist.Gamma(p, 1.0),
    "Beta": lambda p: dist.Beta(p, p),
    "Dirichlet": lambda p: dist.Dirichlet(p.expand(4, 3)),
    "Poisson": lambda p: dist.Poisson(p),
    "StudentT": lambda p: dist.StudentT(p + 3),
    "Uniform": lambda p: dist.Uniform(0.0, p),
    "Gumbel": lambda p: dist.Gumbel(p, 1.0),
    "MultivariateNormal": lambda p: dist.MultivariateNormal(
        p.expand(2), torch.eye(2)
    ),
}


def test_every_distribution_draws_as_in_torch():
    def draw(p):
        return [make(p).sample().double() for make in DRAWS.values()]

    p = torch.tensor([0.3])
    program = graphs.compile(draw, [p])
    for seed in range(3):
        torch.manual_seed(seed)
        expected = draw(p)
        torch.manual_seed(seed)
        for name, one, other in zip(DRAWS, program(p), expected, strict=True):
            torch.testing.assert_close(one, other, msg=name)


def test_recording_puts_random_states_back():
    states = random.getstate(), np.random.get_state()[1], torch.get_rng_state()
    graphs.compile(lambda x: [x + torch.randn(3)], [torch.ones(3)])
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
