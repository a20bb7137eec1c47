"""The compiled step against Pyro's own, step for step.

To compile a graph takes seconds of a core, and what these tests look for goes
wrong before that as a rule: most of them run the recorded graph itself, and
Inductor's version of it with `-m slow`.
"""

import math

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
    TraceMeanField_ELBO,
    autoguide,
)
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam, ClippedAdam
from torch import nn

from pyro_vae import MLP, Config, build
from pyro_vae.pair import announce
from pyro_vae.svi import (
    CompiledSVI,
    NonFiniteLossError,
    ReportingELBO,
    make_svi,
    options,
    programs,
)
from tests.models import keep_the_record

ENGINES = (make_svi, CompiledSVI)
SLOW = pytest.mark.slow


@pytest.fixture
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


@pytest.fixture(params=["recorded", pytest.param("compiled", marks=SLOW)])
def backend(request, monkeypatch):
    if request.param == "recorded":
        keep_the_record(monkeypatch)


both_backends = pytest.mark.usefixtures("backend")
only_recorded = pytest.mark.usefixtures("recorded")


def run(svi, steps, *args):
    torch.manual_seed(1)
    return torch.tensor([svi.step(*args) for _ in range(steps)])


def assert_close(left, right, rtol=1e-9):
    left, right = torch.as_tensor(left), torch.as_tensor(right)
    error = (left - right).abs().max().item()
    assert error <= rtol * right.abs().max().item(), error


def assert_same(results, rtol=1e-9):
    """Two lists of tensors, Pyro's and the compiled engine's."""
    for left, right in zip(*results, strict=True):
        assert_close(right.double(), left.double(), rtol)


def stored():
    """Copies of all parameters in Pyro's store."""
    return [p.detach().clone() for p in pyro.get_param_store().values()]


def assert_same_run(make, steps, *args, optim=None, loss=Trace_ELBO, rtol=1e-9):
    """Runs a pair under either engine, each in a param store of its own.

    Args:
        make: Makes the pair, always the same one.
        optim: Makes the optimizer.
    """
    optim, results = optim or (lambda: Adam({"lr": 1e-2})), []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            model, guide = make()
            svi = engine(model, guide, optim(), loss())
            results.append([run(svi, steps, *args), *stored()])
    assert svi.num_compilations == 1
    assert_same(results, rtol)


def line():
    """A pair of four numbers, which is little to compile."""

    def model(x, num_data=None):
        weight = pyro.param("weight", torch.tensor(0.5))
        scale = (num_data or len(x)) / len(x)
        with pyro.plate("data", len(x)), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(weight * z, 1.0), obs=x)

    def guide(x, num_data=None):
        slope = pyro.param("slope", torch.tensor(0.3))
        bias = pyro.param("bias", torch.tensor(-0.1))
        width = pyro.param(
            "width", torch.tensor(0.7), constraint=dist.constraints.positive
        )
        scale = (num_data or len(x)) / len(x)
        with pyro.plate("data", len(x)), poutine.scale(scale=scale):
            pyro.sample("z", dist.Normal(slope * x + bias, width))

    return model, guide


def compiled_line():
    return CompiledSVI(*line(), Adam({"lr": 1e-2}))


def compiled_mean():
    """A pair of one number and no latents, which is less still."""

    def model(x, num_data=None):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x, num_data=None):
        pass

    return CompiledSVI(model, guide, Adam({"lr": 1e-2}))


def vae_pair(dtype=torch.float64, hidden=(16,), **choices):
    def make():
        vae = build(Config(hidden=hidden, **choices), 64).to(dtype)
        return vae.model, vae.guide

    return make


@both_backends
@pytest.mark.parametrize(
    ("prior", "guide"),
    [
        ("normal", "normal"),
        ("laplace", "laplace"),
        pytest.param("normal", "laplace", marks=SLOW),
        pytest.param("laplace", "normal", marks=SLOW),
    ],
)
def test_it_is_pyros_svi_for_every_prior_and_guide(prior, guide):
    make = vae_pair(prior=prior, guide=guide)
    assert_same_run(make, 30, torch.rand(20, 64), 100)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["normal", "laplace"])
def test_float32_networks(prior):
    x = torch.rand(20, 64, dtype=torch.float32)
    make = vae_pair(torch.float32, prior=prior)
    assert_same_run(make, 100, x, 100, rtol=1e-4)


def test_float32():
    torch.set_default_dtype(torch.float32)  # of the parameters, too
    assert_same_run(line, 100, torch.randn(20), 100, rtol=1e-4)


@both_backends
def test_smaller_minibatches_values_and_evaluations():
    """A graph for each layout, value and kind, and each takes its turn."""
    x, results = torch.randn(20), []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            svi = engine(*line(), Adam({"lr": 1e-2}), Trace_ELBO())
            torch.manual_seed(1)
            losses = []
            for step in range(30):
                losses.append(svi.step(x[:6] if step % 5 == 4 else x, 100))
                if step % 10 == 9:
                    losses.append(svi.evaluate_loss(x, 100))
                    losses.append(svi.step(x))
                    losses.append(svi.step(x.repeat(2)[::2]))  # strided
            results.append([torch.tensor(losses), *stored()])
    assert svi.num_compilations == 5
    assert_same(results)


@both_backends
@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda: Trace_ELBO(num_particles=2), marks=SLOW),
        lambda: Trace_ELBO(
            num_particles=3, vectorize_particles=True, max_plate_nesting=1
        ),
        lambda: TraceMeanField_ELBO(),
        lambda: RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True),
        pytest.param(lambda: RenyiELBO(alpha=0.5, num_particles=2), marks=SLOW),
    ],
    ids=["particles", "vectorized", "mean field", "renyi", "renyi loop"],
)
def test_estimators(loss):
    assert_same_run(line, 20, torch.randn(8), loss=loss)


class Reporting(ReportingELBO):
    """Reports half the square of its loss."""

    estimator = Trace_ELBO()

    def loss(self, *args):
        return self.estimator.loss(*args)

    def loss_and_grads(self, *args):
        loss = self.estimator.loss_and_grads(*args)
        self.take_report(torch.as_tensor(loss) ** 2 / 2)
        return loss

    def _get_trace(self, *args):
        return self.estimator._get_trace(*args)


@both_backends
@pytest.mark.parametrize("make", [line, lambda: drawn_at_first()])
def test_reports_belong_to_their_step(make):
    """To the first step, too, which may be an eager one."""
    x, results = torch.randn(5), []
    for engine in ENGINES:
        with pyro.get_param_store().scope():
            loss = Reporting()
            svi = engine(*make(), Adam({"lr": 0.1}), loss)
            torch.manual_seed(1)
            steps = [(svi.step(x), loss.report().clone()) for _ in range(4)]
        for value, report in steps:
            assert report.item() == pytest.approx(value**2 / 2)
        results.append([torch.tensor([value for value, _ in steps])])
    assert_same(results)


def test_without_a_step_there_is_no_report():
    with pytest.raises(ValueError, match="Reporting has nothing to report"):
        Reporting().report()


@both_backends
def test_all_gradients_are_clipped_together():
    """In the recording: by a norm that is reached, and by one that is not."""
    x, ends = torch.randn(8), []
    for clip_norm in (None, 1e9, 0.5):
        results = []
        for engine in ENGINES:
            with pyro.get_param_store().scope():
                # Gradients come through Adam as they are, but for a factor.
                optim = Adam({"lr": 1e-2, "eps": 1e6})
                svi = engine(*line(), optim, Trace_ELBO(), clip_norm=clip_norm)
                results.append([run(svi, 3, x), *stored()])
        assert_same(results, rtol=1e-12)
        ends.append(torch.stack(results[1][1:]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


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


@both_backends
def test_parallel_enumeration():
    x = torch.randn(12) * 2

    def loss():
        return TraceEnum_ELBO(max_plate_nesting=1)

    assert_same_run(mixture, 30, x, loss=loss)


@both_backends
def test_the_score_function_estimator_too():
    """A guide that cannot be reparameterized: DiCE terms, no enumeration."""

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


@both_backends
@pytest.mark.parametrize(
    "optim",
    [
        lambda: ClippedAdam(
            {"lr": 0.02, "lrd": 0.99, "clip_norm": 0.5, "eps": 1e-3}
        ),
        pytest.param(
            lambda: Adam(lambda name: {"lr": 0.05 if "sc" in name else 0.01}),
            marks=SLOW,
        ),
    ],
    ids=["clipped", "by name"],
)
def test_an_autoguide_and_a_random_subsample(optim):
    x, y = torch.randn(10, 3), torch.randn(10)
    assert_same_run(regression, 30, x, y, optim=optim)


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


@both_backends
def test_steps_after_a_first_one_that_made_the_parameters():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, tau), obs=y)

    def make():
        return model, autoguide.AutoMultivariateNormal(model)

    assert_same_run(make, 20, torch.linspace(-3, 9, 4))


def drawn_at_first():
    """A pair whose first step draws the initial parameters."""

    def model(x):
        loc = pyro.param("loc", lambda: torch.randn(3))
        z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x)

    def guide(x):
        mean = pyro.param("mean", lambda: torch.randn(3))
        pyro.sample("z", dist.Normal(mean, 0.1).to_event(1))

    return model, guide


@both_backends
def test_drawing_the_initial_parameters_takes_its_random_numbers():
    assert_same_run(drawn_at_first, 10, torch.randn(5))


@both_backends
def test_a_torch_optimizer_updates_what_it_was_given():
    x, (model, guide) = torch.randn(8), line()
    torch.manual_seed(1)
    Trace_ELBO().loss_and_grads(model, guide, x)  # makes the parameters, too
    store = pyro.get_param_store()
    params = {name: store[name].unconstrained() for name in store}
    given = ("slope", "width")
    expected = {
        name: param.detach() - 0.1 * param.grad * (name in given)
        for name, param in params.items()
    }
    for param in params.values():
        param.grad = None
    optim = torch.optim.SGD([params[name] for name in given], lr=0.1)
    run(CompiledSVI(model, guide, optim), 1, x)
    for name, param in params.items():
        assert_close(param.detach(), expected[name])


class ExampleVAE(nn.Module):
    """The shape of Pyro's example: bound methods and pyro.module."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = MLP(64, 6, ()), MLP(3, 64, ())

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


@both_backends
def test_a_pair_written_with_pyro_module():
    def make():
        vae = ExampleVAE()
        return vae.model, vae.guide

    assert_same_run(make, 30, torch.rand(8, 64))


class Normalized(nn.Module):
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
    x, results = torch.randn(8, 3), []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            model = Normalized()
            svi = engine(model, normal_guide, Adam({"lr": 1e-2}), Trace_ELBO())
            losses = run(svi, 5, x)
            assert model.norm.num_batches_tracked == 5
            results.append([losses, *model.norm.buffers()])
    assert_same(results)


@both_backends
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
    assert_same(results)


class Network(nn.Module):
    """A pair around a small network."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 2))
        self.register_buffer("shift", torch.zeros(2))

    def model(self, x):
        announce(self)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            loc = self.layers(x) + self.shift + z
            pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=x[:, :2])


def replace_a_layer(pair):
    torch.manual_seed(7)
    pair.layers[0] = nn.Linear(3, 2)


EDITS = {
    "frozen": lambda pair: pair.layers[0].weight.requires_grad_(False),
    "appended": lambda pair: pair.layers.append(nn.Tanh()),
    "replaced": replace_a_layer,
    "buffer": lambda pair: pair.register_buffer("shift", torch.ones(2)),
    "cleared": lambda pair: pyro.clear_param_store(),
}


@both_backends
def test_an_edited_module_is_noticed():
    """One edit after the other; each changes what the next steps do."""
    x, results = torch.randn(8, 3), []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            pair, losses, values = Network(), [], []
            svi = engine(
                pair.model, normal_guide, Adam({"lr": 1e-2}), Trace_ELBO()
            )
            for edit in (lambda pair: None, *EDITS.values()):
                edit(pair)
                bias = pair.layers[0].bias.detach().clone()
                losses.append(run(svi, 3, x))
                assert not torch.equal(pair.layers[0].bias, bias)
                values += [p.detach().clone() for p in pair.parameters()]
            results.append([*losses, *values, *stored()])
    assert svi.num_compilations == 1 + len(EDITS)
    assert_same(results)


@only_recorded
def test_a_number_that_changes_at_every_step_is_warned_of(monkeypatch):
    for module in (programs, options):
        monkeypatch.setattr(module, "MANY", 2)
    svi, x = compiled_mean(), torch.randn(4)
    svi.step(x, 100)
    with pytest.warns(UserWarning, match=r"2 graphs .* pass a number that"):
        svi.step(x, 101)


@only_recorded
def test_one_tensor_given_twice_is_not_frozen_into_two():
    def model(x, y):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc * y, 1.0), obs=x)

    svi = CompiledSVI(model, lambda x, y: None, Adam({"lr": 0.0}))
    x, y = torch.randn(2, 5)
    for pair in ((x, x), (x, y), (x, x), (x, x.clone()), (y, x), (y, y)):
        loss = -dist.Normal(0.5 * pair[1], 1.0).log_prob(pair[0]).sum()
        assert svi.step(*pair) == pytest.approx(loss.item(), rel=1e-12)
    assert svi.num_compilations == 2


@only_recorded
def test_a_bad_loss_names_the_site_and_touches_nothing():
    svi, x = compiled_line(), torch.randn(8)
    run(svi, 3, x)
    before, bad = stored(), x.clone()
    bad[0] = math.inf
    with pytest.raises(NonFiniteLossError, match="at site 'z' of the guide"):
        svi.step(bad)
    assert all(map(torch.equal, before, stored()))
    assert math.isfinite(svi.step(x))


@both_backends
@both_backends
def test_the_engines_can_take_turns_and_options_may_change():
    """Both engines keep options and state in the Pyro optimizer."""
    x, results = torch.randn(8), []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            pair, optim = line(), Adam({"lr": 1e-2})
            eager = SVI(*pair, optim, Trace_ELBO())
            other = engine(*pair, optim, Trace_ELBO())
            losses = []
            for rate in (1e-2, 1e-3):
                for one in optim.optim_objs.values():
                    one.param_groups[0]["lr"] = rate
                for svi in (eager, other, eager, other):
                    losses.append(run(svi, 3, x))
            results.append([*losses, *stored()])
    assert other.num_compilations == 1
    assert_same(results)


@only_recorded
def test_a_handler_around_the_step_is_refused():
    svi, x = compiled_mean(), torch.randn(8)
    svi.step(x)
    with (
        poutine.scale(scale=2.0),
        pytest.raises(ValueError, match="inside a Pyro handler; expected"),
    ):
        svi.step(x)


def unrecordable():
    loss = Reporting()
    loss.can_be_compiled = False
    return loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "adam"}, "of type str; expected one of pyro.optim"),
        (
            {"optim": torch.optim.LBFGS([torch.ones(1)])},
            "is LBFGS, which evaluates",
        ),
        ({"loss": unrecordable()}, "is Reporting, which cannot be compiled"),
        ({"precision": "low"}, "'low'; expected one of highest"),
    ],
)
def test_what_it_cannot_take_is_named(options, message):
    options = {"optim": Adam({"lr": 0.1}), **options}
    with pytest.raises(ValueError, match=message):
        CompiledSVI(*line(), **options)


def test_the_estimators_functions_are_there_as_svi_has_them():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        x_dist = dist.Normal(loc.expand(3), 1).to_event(1)
        pyro.sample("x", x_dist, obs=x)

    def guide(x):
        pass

    x, optim = torch.ones(3), Adam({"lr": 0.1})
    svi = CompiledSVI(model, guide, optim, Trace_ELBO())
    assert svi.loss_and_grads(model, guide, x) == svi.loss(model, guide, x)
    assert pyro.param("loc").grad == -1.5
    pyro.param("loc").grad = None
    given = CompiledSVI(model, guide, optim, svi.loss, lambda *_: 1.0)
    assert given.loss_and_grads(model, guide, x) == 1.0
    own = CompiledSVI(model, guide, optim, Trace_ELBO().differentiable_loss)
    assert own.loss_and_grads(model, guide, x) == svi.loss(model, guide, x)
    assert pyro.param("loc").grad == -1.5


def test_memory_of_a_graph_lies_where_its_tensors_do():
    """And not on another default device."""
    x = torch.rand(200, 300)
    one = torch.ones(())

    def model(x):
        z = pyro.sample("z", dist.Normal(one, one).expand(x.shape).to_event(2))
        pyro.sample("x", dist.Normal(z.exp(), one).to_event(2), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: x.clone())
        pyro.sample("z", dist.Normal(loc, one).to_event(2))

    losses = []
    for engine in (SVI, CompiledSVI):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            svi = engine(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
            own = [svi.step(x) for _ in range(3)]
            with torch.device("meta"):
                own += [svi.step(x) for _ in range(3)]
            losses.append(own + [svi.step(x) for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
