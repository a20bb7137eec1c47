"""Every prior with every guide, and every likelihood with either network."""

import copy
import itertools

import pyro
import pytest
import torch
from pyro.distributions import TorchDistribution
from pyro.infer import SVI
from pyro.optim import Adam

from pyro_vae import CompiledSVI, Config, build, load_vae, save_vae
from pyro_vae.config.networks import NETWORKS
from pyro_vae.config.variants import CONTINUOUS, LIKELIHOODS, PRIORS
from pyro_vae.objectives import make_objective
from pyro_vae.parts.distributions import center
from tests.models import PAIRS, bend
from tests.statistics import z_limit

COUNTS = ("poisson", "negative-binomial")
FAMILIES = list(itertools.product(LIKELIHOODS, NETWORKS))


def make(prior="normal", guide="auto", hidden=(8,), **choices):
    if choices.get("network") == "conv":
        choices["channels"] = (4,)
    used = PRIORS[prior].uses
    if "num_components" in used:
        choices["num_components"] = 3
    if "flow" in (prior, guide):
        choices["coupling_units"] = 8
    config = Config(
        prior=prior,
        guide=guide,
        latent_dim=3,
        hidden=hidden,
        learn_prior_scale="learn_prior_scale" in used,
        **choices,
    )
    return bend(build(config, 64))


def images(vae):
    x, name = torch.rand(8, 64), vae.recipe["config"]["likelihood"]
    scale = {"bernoulli": 1, "discretized-logistic": 255}
    if name in COUNTS:
        return (20 * x * x).floor()
    return (x * scale[name]).round() / scale[name] if name in scale else x


def steps(vae, engine, num_steps, x):
    optim, loss = Adam({"lr": 1e-2}), make_objective(vae)
    svi = engine(vae.model, vae.guide, optim, loss)
    torch.manual_seed(1)
    return [svi.step(x) for _ in range(num_steps)]


def check(vae, folder):
    """A step moves every parameter; all else that a VAE is asked for works.

    But a softmax over the pixels takes away what a convolution's bias adds.
    """
    x, config = images(vae), vae.recipe["config"]
    is_softmax = config["likelihood"] in COUNTS and config["network"] == "conv"
    still = {"model.likelihood.decoder.layers.2.bias"} if is_softmax else set()
    before = {k: p.detach().clone() for k, p in vae.named_parameters()}
    steps(vae, SVI, 1, x)
    assert not [
        name
        for name, parameter in vae.named_parameters()
        if torch.equal(parameter, before[name]) and name not in still
    ]
    save_vae(vae, folder)
    for other in (load_vae(folder), copy.deepcopy(vae)):
        elbos = []
        for one in (vae, other):
            torch.manual_seed(1)
            elbos.append(one.compute_elbo(x, 2))
        assert torch.equal(*elbos) and elbos[0].isfinite().all()
    assert vae.sample(5).shape == (5, 64)
    assert vae.reconstruct(x).shape == (8, 64)
    q = vae.infer(x)
    assert q.batch_shape == (8,) and center(q).shape == (8, *q.event_shape)


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
def test_every_prior_with_every_guide(tmp_path, prior, guide):
    check(make(prior, guide), tmp_path)


@pytest.mark.parametrize(("likelihood", "network"), FAMILIES)
def test_every_likelihood_with_either_network(tmp_path, likelihood, network):
    choices = {}
    if likelihood in COUNTS and network == "conv":
        # One bias for all pixels, which proportions do not depend on.
        choices = {"library": "learned"}
    check(make(likelihood=likelihood, network=network, **choices), tmp_path)


@pytest.mark.parametrize("prior", ["categorical", "mixture", "vamp"])
def test_other_latents_with_a_bernoulli_and_convolutions(tmp_path, prior):
    check(make(prior, likelihood="bernoulli", network="conv"), tmp_path)


@pytest.mark.parametrize(
    ("prior", "guide", "choices"),
    [
        ("student-t", "full", {"likelihood": "bernoulli"}),
        ("vamp", "normal", {}),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("logistic", "normal", {"likelihood": "continuous-bernoulli"}),
                ("summed-mixture", "laplace", {}),
                ("flow", "flow", {"num_couplings": 2}),
            )
        ),
    ],
)
def test_the_compiled_step_is_pyros(prior, guide, choices):
    vae = make(prior, guide, hidden=(), **choices)
    twin, x = copy.deepcopy(vae), images(vae)
    expected = torch.tensor(steps(vae, SVI, 3, x))
    compiled = torch.tensor(steps(twin, CompiledSVI, 3, x))
    assert torch.allclose(compiled, expected, rtol=1e-9)
    for left, right in zip(twin.parameters(), vae.parameters(), strict=True):
        assert torch.allclose(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("guide", CONTINUOUS["guide"])
def test_the_score_function_has_the_mean_of_the_pathwise_gradient(guide):
    """A flow's kept inverse has no gradient, and must not be used."""
    choices = {"guide": guide, "noise_scale": 3.0, "init_std": 0.3}
    pathwise = make(**choices)
    scored = make(gradient="score-function", **choices)
    scored.load_state_dict(pathwise.state_dict())
    x = torch.rand(1, 64).repeat(60, 1)  # a gradient is a sum over copies

    def draw(vae):
        vae.zero_grad()
        loss = make_objective(vae)
        loss.loss_and_grads(vae.model, vae.guide, x)
        parameters = vae.guide.distribution.parameters()
        return torch.stack([p.grad.sum() for p in parameters])

    with pyro.validation_enabled(False):
        draws = [
            torch.stack([draw(vae) for _ in range(100)])
            for vae in (scored, pathwise)
        ]
    error = (sum(sample.var(0) for sample in draws) / 100).sqrt()
    z = (draws[0].mean(0) - draws[1].mean(0)) / error
    assert z.abs().max() < z_limit(z.numel())
    assert (draws[1].mean(0).abs() > 4 * draws[1].std(0) / 10).any()


def test_the_center_of_a_distribution():
    vae = make(guide="flow")
    q = vae.infer(torch.rand(2, 64))
    z = q.base_dist.mode
    for transform in q.transforms:
        z = transform(z)
    assert torch.equal(center(q), z)
    assert torch.equal(center(vae.prior()), torch.zeros(3))
    vamp = make("vamp").prior()
    mean = vamp.component_distribution.mean.mean(0)
    assert torch.allclose(center(vamp), mean)
    with pytest.raises(NotImplementedError, match="with a mode or a mean"):
        center(TorchDistribution(validate_args=False))


def test_an_older_recipe_without_the_new_choices_loads(tmp_path):
    vae = make()
    vae.recipe = {
        "config": {"latent_dim": 3, "hidden": [8]},
        "data_dim": 64,
    }
    save_vae(vae, tmp_path)
    x = torch.rand(2, 64)
    loaded = load_vae(tmp_path)
    assert torch.equal(loaded.reconstruct(x), vae.reconstruct(x))
