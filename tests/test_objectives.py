"""Every objective against formulas written out by hand, in float64."""

import math
from dataclasses import replace

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
    TraceMeanField_ELBO,
)
from pyro.optim import Adam
from torch import nn

from pyro_vae import VAE, CompiledSVI, Config, build
from pyro_vae.objectives import (
    OBJECTIVES,
    PathwiseELBO,
    WeightedELBO,
    is_analytic,
    make_objective,
)
from pyro_vae.objectives.analytic import compute_kl
from pyro_vae.parts.gradient_estimators import ScoreFunction
from pyro_vae.parts.guides import LaplaceGuide, NormalGuide
from pyro_vae.parts.likelihoods import GaussianLikelihood
from pyro_vae.parts.priors import LaplacePrior, NormalPrior
from pyro_vae.svi import make_svi
from tests.models import bend, list_analytic_pairs
from tests.statistics import assert_mean, z_limit

NOISE = 0.7  # of the linear decoder
N = 90  # images in the pretended data set


def linear_vae(size=2, data_dim=4, offset=0.0):
    """A linear-Gaussian VAE whose guide is its exact posterior, or off it.

    The decoder's columns are orthogonal, so that the posterior is diagonal.
    """
    decoder, encoder = nn.Linear(size, data_dim), nn.Linear(data_dim, 2 * size)
    columns = torch.linalg.qr(torch.randn(data_dim, size)).Q
    lengths = torch.linspace(0.5, 1.5, size)
    variance = 1 / (1 + lengths**2 / NOISE**2)
    with torch.no_grad():
        decoder.weight.copy_(columns * lengths)
        to_loc = variance[:, None] * decoder.weight.T / NOISE**2
        encoder.weight.zero_()[:size] = to_loc
        scale = variance.sqrt() - 1e-4  # above the guide's floor
        encoder.bias[:size] = -to_loc @ decoder.bias
        encoder.bias[size:] = scale.expm1().log()
        encoder.bias += offset
    return VAE(
        NormalPrior(size),
        GaussianLikelihood(decoder, "fixed", NOISE),
        NormalGuide(encoder),
    )


def log_marginal(vae, x):
    weight, bias = vae.likelihood.decoder.parameters()
    covariance = weight @ weight.T + NOISE**2 * torch.eye(len(bias))
    return dist.MultivariateNormal(bias, covariance).log_prob(x)


def hand_terms(vae, x, num_particles):
    """log p(x | z), log p(z) and log q(z | x), each `(S, B)`."""
    q, p = vae.infer(x), vae.prior()
    z = q.rsample((num_particles,))
    return vae.likelihood(z).log_prob(x), p.log_prob(z), q.log_prob(z)


def gradients(vae, objective, x, num_data=None, seed=3):
    """The loss at a fixed noise, and its gradient by parameter."""
    vae.zero_grad()
    torch.manual_seed(seed)
    loss = objective.loss_and_grads(vae.model, vae.guide, x, num_data)
    named = vae.named_parameters()
    return loss, {n: p.grad.clone() for n, p in named if p.grad is not None}


def hand_gradients(vae, bound):
    vae.zero_grad()
    (-bound).backward()
    named = vae.named_parameters()
    return {n: p.grad.clone() for n, p in named if p.grad is not None}


def assert_same(left, right, rtol=1e-9):
    """Two results of `gradients`."""
    assert left[0] == pytest.approx(right[0], rel=rtol)
    assert left[1].keys() == right[1].keys()
    for name, gradient in left[1].items():
        assert torch.allclose(gradient, right[1][name], rtol=rtol), name


@pytest.fixture
def x():
    return torch.rand(6, 64)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 2.0])
def test_renyi_is_the_hand_formula(small_vae, x, alpha, num_particles):
    objective = make_objective(small_vae, "renyi", num_particles, alpha)
    result = gradients(small_vae, objective, x, N)
    torch.manual_seed(3)
    likelihood, log_p, log_q = hand_terms(small_vae, x, num_particles)
    weight = (likelihood + log_p - log_q).exp()
    bound = weight.pow(1 - alpha).mean(0).log().sum() / (1 - alpha)
    bound = bound * N / len(x)
    truth = (-bound.item(), hand_gradients(small_vae, bound))
    assert_same(result, truth)
    elbo = (likelihood + log_p - log_q).mean(0).sum() * N / len(x)
    assert objective.report().item() == pytest.approx(elbo.item(), rel=1e-12)


def test_one_particle_makes_all_bounds_the_elbo(small_vae, x):
    plain = make_objective(small_vae)
    assert type(plain) is Trace_ELBO
    elbo = gradients(small_vae, plain, x, N)
    for name in ("elbo", "iwae", "renyi"):
        beta = torch.tensor(1.0)
        one = make_objective(small_vae, name, beta=beta)
        assert type(one) is PathwiseELBO
        assert_same(gradients(small_vae, one, x, N), elbo)
    stl, dreg = (make_objective(small_vae, name) for name in ("stl", "dreg"))
    stl = gradients(small_vae, stl, x, N)
    assert stl[0] == pytest.approx(elbo[0], rel=1e-12)
    assert_same(gradients(small_vae, dreg, x, N), stl)


def test_the_loss_scales_with_the_data_and_pyros_renyi_does_not(small_vae, x):
    """The plate's scale belongs outside the log-mean-exp over particles."""
    ours = make_objective(small_vae, "iwae", 4)
    pyros = RenyiELBO(
        alpha=0, num_particles=4, vectorize_particles=True, max_plate_nesting=1
    )
    small, _ = gradients(small_vae, ours, x)
    large, _ = gradients(small_vae, ours, x, N)
    assert_same(gradients(small_vae, ours, x), gradients(small_vae, pyros, x))
    assert large == pytest.approx(small * N / len(x), rel=1e-12)
    wrong, _ = gradients(small_vae, pyros, x, N)
    assert abs(wrong - large) > 1e-3 * abs(large)


def test_the_bound_grows_with_particles_and_falls_with_alpha():
    vae, x = linear_vae(offset=0.3), torch.randn(200, 4)
    exact = log_marginal(vae, x).sum().item()

    def bound(name, num_particles, alpha=0.5):
        torch.manual_seed(0)
        objective = make_objective(vae, name, num_particles, alpha)
        return -objective.loss(vae.model, vae.guide, x)

    bounds = [bound("iwae", count) for count in (1, 4, 32)]
    assert bounds[0] + 20 < bounds[1] and bounds[1] + 10 < bounds[2]
    assert bound("iwae", 256) == pytest.approx(exact, abs=5)
    alphas = [bound("renyi", 32, alpha) for alpha in (0, 0.3, 0.9, 1 - 1e-9)]
    assert alphas == sorted(alphas, reverse=True)
    assert alphas[0] == bound("iwae", 32)
    assert alphas[-1] == pytest.approx(bound("elbo", 32), rel=1e-6)


@pytest.mark.parametrize("name", ["stl", "dreg"])
def test_at_the_exact_posterior_the_encoders_gradient_is_zero(name):
    """Sample by sample; and every bound is log p(x)."""
    vae, x = linear_vae(), torch.randn(5, 4)
    exact = log_marginal(vae, x).sum().item()
    noisy = gradients(vae, make_objective(vae), x)[1]
    for num_particles in (1, 3):
        objective = make_objective(vae, name, num_particles)
        loss, grads = gradients(vae, objective, x)
        assert -loss == pytest.approx(exact, rel=1e-10)
        for key in grads:
            size = grads[key].abs().max()
            assert (size < 1e-10) == key.startswith("guide"), key
            assert noisy[key].abs().max() > 1e-2


def draw_gradients(vae, objective, bias, x, count):
    """Draws of the gradient, upwards, in the encoder's biases.

    Each is the mean of draws for 10 copies of the images: as good as 10
    draws, in the time of one.
    """
    draws, copies = [], x.repeat(10, 1)
    with pyro.validation_enabled(False):
        for _ in range(count):
            vae.zero_grad()
            objective.loss_and_grads(vae.model, vae.guide, copies)
            draws.append(-bias.grad / 10)
    return torch.stack(draws)


def draw_for(vae, name, num_particles, x, count):
    objective = make_objective(vae, name, num_particles)
    return draw_gradients(vae, objective, vae.guide.encoder.bias, x, count)


def test_stl_is_unbiased_for_the_elbo():
    vae, x = linear_vae(offset=0.3), torch.randn(3, 4)
    weight, bias = vae.likelihood.decoder.parameters()
    q = vae.infer(x)
    squares = (x - bias - q.mean @ weight.T).square().sum()
    squares = squares + (q.variance * weight.square().sum(0)).sum()
    kl = torch.distributions.kl_divergence(q, vae.prior()).sum()
    (-squares / (2 * NOISE**2) - kl).backward()
    truth = vae.guide.encoder.bias.grad.clone()
    stl = draw_for(vae, "stl", 1, x, 100)
    assert_mean(stl, truth)
    assert_mean(draw_for(vae, "elbo", 1, x, 100), truth)
    assert (stl.mean(0) - truth).abs().max() < 0.5 * truth.abs().max()


def test_dreg_is_unbiased_for_the_importance_bound():
    """Two particles of one latent: Gauss-Hermite quadrature is exact."""
    vae, x = linear_vae(size=1, offset=0.3), torch.randn(1, 4)
    grid = np.polynomial.hermite_e.hermegauss(60)
    nodes, weights = map(torch.as_tensor, grid)
    weights = weights / weights.sum()
    q = vae.infer(x).base_dist
    z = (q.loc + q.scale * nodes[:, None]).unsqueeze(-1)
    log_weight = (
        vae.likelihood(z).log_prob(x)
        + vae.prior().log_prob(z)
        - vae.infer(x).log_prob(z)
    ).squeeze(-1)
    pairs = torch.logaddexp(log_weight[:, None], log_weight) - math.log(2)
    (weights @ pairs @ weights).backward()
    truth = vae.guide.encoder.bias.grad.clone()
    dreg = draw_for(vae, "dreg", 2, x, 150)
    iwae = draw_for(vae, "iwae", 2, x, 150)
    assert_mean(dreg, truth)
    assert_mean(iwae, truth)
    assert dreg.var(0).sum() < 0.5 * iwae.var(0).sum()


def test_dreg_is_unbiased_for_a_flow(x):
    """Which remembers its draws: no gradient may bypass z that way."""
    config = Config(guide="flow", hidden=(8,), noise_scale=1.0)
    vae, means, errors = bend(build(config, 64)), [], []
    bias = vae.guide.encoder.layers[-1].bias
    for name in ("dreg", "iwae"):
        objective = make_objective(vae, name, 8)
        draws = draw_gradients(vae, objective, bias, x[:1], 100)
        draws = draws[:, :4]  # loc and scale of the base
        means.append(draws.mean(0))
        errors.append(draws.var(0) / len(draws))
    deviation = (means[0] - means[1]) / (errors[0] + errors[1]).sqrt()
    assert deviation.abs().max() < z_limit(4)
    assert errors[0].sum() < errors[1].sum()


def test_dreg_leaves_the_models_gradient_as_it_is(small_vae, x):
    iwae, dreg = (
        gradients(small_vae, make_objective(small_vae, name, 4), x, N)
        for name in ("iwae", "dreg")
    )
    assert iwae[0] == pytest.approx(dreg[0], rel=1e-12)
    for name, gradient in iwae[1].items():
        same = torch.allclose(gradient, dreg[1][name], rtol=1e-10)
        assert same == name.startswith("model"), name


def pair(prior, guide):
    """A VAE of modules, which knows no configuration."""
    decoder, encoder = nn.Linear(2, 64), nn.Linear(64, 4)
    return VAE(
        prior(2), GaussianLikelihood(decoder, "fixed", 0.5), guide(encoder)
    )


class StudentTPrior(nn.Module):
    """A prior that is not the package's."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self):
        return dist.StudentT(4.0, torch.zeros(self.size), 1.0).to_event(1)


class Gamma(StudentTPrior):
    """Of another support: torch has a number for its KL all the same."""

    def forward(self):
        return dist.Gamma(torch.ones(self.size), 1.0).to_event(1)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("guide", [NormalGuide, LaplaceGuide])
@pytest.mark.parametrize("prior", [NormalPrior, LaplacePrior])
def test_analytic_kl_is_pyros_mean_field_elbo(x, prior, guide, num_particles):
    vae = pair(prior, guide)
    pyros = TraceMeanField_ELBO(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        max_plate_nesting=1,
    )
    ours = make_objective(vae, "analytic-kl", num_particles)
    result = gradients(vae, ours, x, N)
    assert_same(result, gradients(vae, pyros, x, N))
    assert ours.report().item() == pytest.approx(-result[0], rel=1e-12)


@pytest.mark.parametrize("prior", [NormalPrior, LaplacePrior])
@pytest.mark.parametrize("guide", [NormalGuide, LaplaceGuide])
def test_the_closed_forms_are_the_means_of_the_samples(prior, guide):
    vae, x = pair(prior, guide), torch.rand(1, 64)
    q, p = vae.infer(x), vae.prior()
    z = q.sample((20_000,))
    kl = torch.distributions.kl_divergence(q, p)
    assert_mean(q.log_prob(z) - p.log_prob(z), kl)


def test_a_full_normal_has_a_closed_form_from_a_diagonal_prior():
    p = dist.Normal(torch.randn(2), 0.7).to_event(1)
    q = dist.MultivariateNormal(torch.randn(3, 2), 0.3 * torch.eye(2) + 0.2)
    same = dist.MultivariateNormal(p.mean, 0.49 * torch.eye(2))
    kl = compute_kl(q, p.expand((3,)))
    assert torch.allclose(kl, torch.distributions.kl_divergence(q, same))


def test_pairs_without_a_closed_form_are_refused_by_name(x):
    for prior, name in ((StudentTPrior, "StudentT"), (Gamma, "Gamma")):
        vae = pair(prior, NormalGuide)
        objective = make_objective(vae, "analytic-kl")
        message = f"guide is Normal and the prior {name}, whose KL has no"
        with pyro.validation_enabled(False):
            with pytest.raises(ValueError, match=message):
                objective.loss(vae.model, vae.guide, x)
            Trace_ELBO().loss(vae.model, vae.guide, x)
        vae.recipe = {"data_dim": 64}  # as if it were of build's
        with pytest.raises(ValueError, match=message):
            make_objective(vae, "analytic-kl")


def test_the_table_of_closed_forms():
    pairs = list_analytic_pairs()
    assert pairs["normal", "normal"] and pairs["laplace", "normal"]
    assert not pairs["mixture", "mixture"]
    q = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    p = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert is_analytic(q, p) and not is_analytic(q, StudentTPrior(2)())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_kls_weight_is_the_hand_formulas(small_vae, x, name):
    """And what is reported stays the ELBO at weight 1."""
    beta = torch.tensor(0.3)
    objective = make_objective(small_vae, name, 3, 0.5, beta)
    loss, _ = gradients(small_vae, objective, x, N)
    torch.manual_seed(3)
    likelihood, log_p, log_q = hand_terms(small_vae, x, 3)
    ratio = log_q - log_p
    if name == "analytic-kl":
        q, p = small_vae.infer(x), small_vae.prior()
        ratio = torch.distributions.kl_divergence(q, p)
    weight = likelihood - 0.3 * ratio
    bound = {
        "iwae": weight.exp().mean(0).log(),
        "dreg": weight.exp().mean(0).log(),
        "renyi": 2 * weight.div(2).exp().mean(0).log(),
    }.get(name, weight.mean(0))
    scale = N / len(x)
    assert -loss == pytest.approx(bound.sum().item() * scale, rel=1e-10)
    elbo = (likelihood - ratio).mean(0).sum().item() * scale
    assert objective.report().item() == pytest.approx(elbo, rel=1e-10)
    beta.fill_(1.0)  # it is read anew
    assert gradients(small_vae, objective, x, N)[0] != loss


CATEGORICAL = Config(prior="categorical", num_components=3, hidden=(8,))


def test_discrete_latents_have_a_weight_too(x):
    vae = build(CATEGORICAL, 64)
    objective = make_objective(vae, beta=0.3)
    assert type(objective) is WeightedELBO
    assert type(objective.estimator) is TraceEnum_ELBO
    result = gradients(vae, objective, x, N)
    likelihood, kl = (t.sum() * N / len(x) for t in vae.compute_elbo_terms(x))
    bound = likelihood - 0.3 * kl
    assert_same(result, (-bound.item(), hand_gradients(vae, bound)))
    elbo = (likelihood - kl).item()
    assert objective.report().item() == pytest.approx(elbo, rel=1e-12)


@pytest.mark.parametrize("gradient", ["", "-baseline"])
def test_score_functions_are_unbiased_for_the_weighted_elbo(x, gradient):
    config = replace(CATEGORICAL, gradient="score-function" + gradient)
    vae, x = build(config, 64), x[:2]
    likelihood, kl = (term.sum() for term in vae.compute_elbo_terms(x))
    hand_gradients(vae, likelihood - 0.3 * kl)
    bias = vae.guide.encoder.layers[-1].bias
    truth = bias.grad.clone()
    objective = make_objective(vae, beta=0.3)
    assert_mean(draw_gradients(vae, objective, bias, x, 100), truth)


@pytest.mark.parametrize("name", ["elbo", "analytic-kl"])
def test_free_bits_are_the_hand_formula(small_vae, x, name):
    encoder = small_vae.guide.encoder
    with torch.no_grad():  # the one dimension far above, the other below
        encoder.layers[-1].bias.copy_(torch.tensor([3.0, 0.0, 0.0, 0.5]))
        encoder.layers[-1].weight.mul_(0.1)
    objective = make_objective(small_vae, name, free_bits=0.5, beta=0.7)
    result = gradients(small_vae, objective, x, N)
    torch.manual_seed(3)
    q, p = (d.base_dist for d in (small_vae.infer(x), small_vae.prior()))
    z = q.rsample()
    kl = q.log_prob(z) - p.log_prob(z)
    if name == "analytic-kl":
        kl = torch.distributions.kl_divergence(q, p)
    first, second = kl.mean(0)
    assert first > 0.5 > second
    likelihood = small_vae.likelihood(z).log_prob(x)
    bound = (likelihood - 0.7 * (first + 0.5)).sum() * N / len(x)
    truth = hand_gradients(small_vae, bound)
    assert_same(result, (-bound.item(), truth))
    elbo = (likelihood - kl.sum(-1)).sum().item() * N / len(x)
    assert objective.report().item() == pytest.approx(elbo, rel=1e-12)


def test_what_an_objective_cannot_take_is_refused(small_vae):
    discrete = build(CATEGORICAL, 64)
    for name in set(OBJECTIVES) - {"elbo"}:
        message = f"'{name}' with the gradient Enumerated; expected Pathwise"
        with pytest.raises(ValueError, match=message):
            make_objective(discrete, name)
    message = r"free_bits is 1\.0 with the gradient Enum"
    with pytest.raises(ValueError, match=message):
        make_objective(discrete, free_bits=1.0)
    with pytest.raises(ValueError, match="'vae'; expected one of elbo, ana"):
        make_objective(small_vae, "vae")
    with pytest.raises(ValueError, match="alpha is 1, where"):
        make_objective(small_vae, "renyi", alpha=1)
    with pytest.raises(ValueError, match="=iwae; expected elbo or analytic"):
        make_objective(small_vae, "iwae", free_bits=0.1)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"guide": "full"}, "the guide is MultivariateNormal; expected indep"),
        ({"prior": "vamp"}, "the prior is MixtureSameFamily; expected indep"),
        ({"prior": "flow"}, "the prior is Flow; expected independent"),
    ],
)
def test_free_bits_are_refused_before_the_first_step(choices, message):
    vae = build(Config(hidden=(8,), **choices), 64)
    with pytest.raises(ValueError, match=message):
        make_objective(vae, free_bits=0.1)


@pytest.mark.parametrize(
    ("effect", "fault"),
    [
        (
            lambda: poutine.mask(mask=torch.arange(6) > 2),
            "site 'z' of the model is masked",
        ),
        (
            lambda: poutine.scale(scale=0.5),
            "site 'x' of the model is not scaled as the others are",
        ),
    ],
    ids=["mask", "scale"],
)
def test_sites_that_count_otherwise_than_by_image_are_refused(
    small_vae, x, effect, fault
):
    """They would be silently wrong: Trace_ELBO's loss is another."""

    def model(x):
        with pyro.plate("data", len(x)):
            with effect():
                z = pyro.sample("z", small_vae.prior())
            pyro.sample("x", small_vae.likelihood(z), obs=x)

    pair = (model, small_vae.guide)
    assert math.isfinite(Trace_ELBO().loss(*pair, x))
    with pytest.raises(ValueError, match=f"^{fault}; expected all of them in"):
        make_objective(small_vae, "iwae").loss(*pair, x)


def test_latents_outside_the_images_plate_are_refused(small_vae, x):
    def draw(name):
        pyro.sample(name, dist.Normal(torch.tensor(0.0), 1.0))

    def model(x):
        draw("weight")
        return small_vae.model(x)

    def guide(x):
        draw("weight")
        return small_vae.guide(x)

    objective = make_objective(small_vae, "stl")
    with pytest.raises(ValueError, match=r"^site '.*' of the model is not in"):
        objective.loss(model, guide, x)
    with (
        pytest.warns(UserWarning, match="in guide but not model"),  # Pyro's
        pytest.raises(ValueError, match="'weight' of the guide is not in"),
    ):
        objective.loss(small_vae.model, guide, x)


def test_draws_without_a_gradient_are_refused(small_vae, x):
    """A pair whose guide was marked behind the objective's back."""
    objective = make_objective(small_vae, "iwae", 2)
    small_vae.guide.gradient = ScoreFunction()
    with pytest.raises(ValueError, match="'z' of the guide is Detached"):
        objective.loss(small_vae.model, small_vae.guide, x)


COMPILED = [
    *({"name": name, "num_particles": 2} for name in OBJECTIVES),
    {"free_bits": 0.4},
    {"config": CATEGORICAL},
    {
        "config": Config(
            prior="vamp",
            guide="flow",
            num_components=2,
            num_couplings=1,
            coupling_units=4,
        ),
        "name": "dreg",
        "num_particles": 2,
    },
]


COMPILED_IDS = [*OBJECTIVES, "free bits", "enumerated", "flow"]
COMPILED_FIRST = ("dreg", "free bits", "enumerated")


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(
            choices,
            id=name,
            marks=() if name in COMPILED_FIRST else pytest.mark.slow,
        )
        for name, choices in zip(COMPILED_IDS, COMPILED, strict=True)
    ],
)
def test_the_compiled_engine_in_a_warm_up(choices):
    """One graph for all weights, its gradients clipped."""
    choices = dict(choices)
    config = replace(choices.pop("config", Config()), hidden=())
    results = []
    for engine in (make_svi, CompiledSVI):
        torch.manual_seed(0)
        vae, beta = bend(build(config, 16)), torch.tensor(0.0)
        objective = make_objective(vae, beta=beta, **choices)
        optim = Adam({"lr": 1e-2})
        svi = engine(vae.model, vae.guide, optim, objective, clip_norm=5.0 * N)
        torch.manual_seed(1)
        x, values = torch.rand(8, 16), []
        for step in range(4):
            beta.fill_((step + 1) / 4)
            values += [svi.step(x, N), objective.report().item()]
        values += [v for p in vae.parameters() for v in p.flatten().tolist()]
        results.append(torch.tensor(values))
    assert svi.num_compilations == 1
    expected, compiled = results
    error = (expected - compiled).abs() / (1 + expected.abs())
    assert error.max() < 1e-9
    assert len(set(expected[:8:2].tolist())) == 4


def test_what_the_compiled_engine_cannot_take_is_named():
    config = replace(CATEGORICAL, gradient="score-function-baseline")
    vae = build(config, 64)
    objective = make_objective(vae, beta=0.5)
    with pytest.raises(ValueError, match="WeightedELBO, which cannot be"):
        CompiledSVI(vae.model, vae.guide, Adam({"lr": 0.1}), objective)


def test_pieces_go_into_pyros_svi(x):
    torch.manual_seed(0)
    vae = build(Config(hidden=(8,)), 64)
    objective = make_objective(vae, "dreg", num_particles=8)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), objective)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert svi.evaluate_loss(x) < losses[0]
    module = objective(vae.model, vae.guide)
    assert module(x).requires_grad
