"""Discrete latents: sums over everything, by hand, are the truth."""

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO

from pyro_vae import VAE, CompiledSVI, Config, build
from pyro_vae.objectives import make_objective
from pyro_vae.parts.gradient_estimators import (
    BaselineELBO,
    DecayingBaseline,
    Enumerated,
    GumbelSoftmax,
    LearnedBaseline,
    Pathwise,
    ScoreFunction,
)
from tests.statistics import assert_mean, z_limit

ONE = {"prior": "categorical", "num_components": 4}
THREE = {**ONE, "num_components": 3, "num_variables": 3}
MIXTURE = {"prior": "mixture", "num_components": 4}
LEARNED = {"prior_weights": "learned"}
N = 100


def make(hidden=(16,), **choices):
    torch.manual_seed(0)
    config = Config(hidden=hidden, noise_scale=0.4, **choices)
    vae = build(config, data_dim=20)
    for name, parameter in vae.named_parameters():
        if name.endswith("logits"):  # learned weights that are not uniform
            parameter.data.normal_()
    return vae


def images(size=5):
    return torch.rand(size, 20, generator=torch.Generator().manual_seed(1))


def brute_force_categorical(vae, x, num_variables, num_components):
    """Image by image and state by state, with plain softmaxes."""
    shape = (num_variables, num_components)
    log_p = vae.prior.logits.log_softmax(-1)
    scale = vae.likelihood.scale
    elbo = 0.0
    for image in x:
        parameters = vae.guide.encoder(image).view(shape)
        q = parameters.exp() / parameters.exp().sum(-1, keepdim=True)
        for state in itertools.product(
            range(num_components), repeat=num_variables
        ):
            z = torch.zeros(shape)
            for variable, value in enumerate(state):
                z[variable, value] = 1.0
            probability = (q * z).sum(-1).prod()
            mean = vae.likelihood.decoder(z.flatten())
            log_normal = -0.5 * ((image - mean) / scale) ** 2
            log_normal -= scale.log() + 0.5 * torch.tensor(2 * torch.pi).log()
            terms = log_normal.sum() + (log_p * z).sum() - probability.log()
            elbo = elbo + probability * terms
    return elbo


def brute_force_mixture(vae, x, noise):
    """Component by component, at the noise that Pyro draws: `(K, B, P)`."""
    prior, scale = vae.prior, vae.likelihood.scale
    log_p = prior.logits.log_softmax(-1)
    normal = torch.distributions.Normal
    elbo = 0.0
    for k, of_component in enumerate(noise):
        for image, epsilon in zip(x, of_component, strict=True):
            parameters = vae.guide.encoder(image).view(len(noise), 5)
            q = parameters[:, 0].softmax(-1)[k]
            loc, unconstrained = parameters[k, 1:].view(2, 2)
            q_scale = 1e-4 + unconstrained.exp().log1p()
            z = loc + q_scale * epsilon
            mean = vae.likelihood.decoder(z)
            terms = (
                normal(mean, scale).log_prob(image).sum()
                + normal(prior.loc[k], prior.scale[k]).log_prob(z).sum()
                - normal(loc, q_scale).log_prob(z).sum()
            )
            elbo = elbo + q * (terms + log_p[k] - q.log())
    return elbo


def gradient(vae):
    return [p.grad.clone() for p in vae.parameters() if p.grad is not None]


def assert_equal(left, right, tolerance=1e-10):
    left = torch.cat([value.flatten() for value in left])
    right = torch.cat([value.flatten() for value in right])
    error = (left - right).abs().max() / right.abs().max()
    assert error < tolerance, error.item()


@pytest.mark.parametrize("weights", [{}, LEARNED])
@pytest.mark.parametrize(("choices", "shape"), [(ONE, (1, 4)), (THREE, (3, 3))])
def test_the_enumerated_elbo_is_the_sum_over_all_states(
    choices, shape, weights
):
    vae, x = make(**choices, **weights), images()
    truth = brute_force_categorical(vae, x, *shape)
    truth.backward()
    exact = gradient(vae)
    assert_equal([vae.compute_elbo(x).sum()], [truth])
    vae.zero_grad()
    vae.compute_elbo(x).sum().backward()
    assert_equal(gradient(vae), exact)
    vae.zero_grad()
    loss = make_objective(vae).loss_and_grads(vae.model, vae.guide, x)
    assert -loss == pytest.approx(truth.item(), rel=1e-10)
    assert_equal([-g for g in gradient(vae)], exact)
    # A user who leaves the plates to Pyro to guess gets the same.
    loss = TraceEnum_ELBO().loss(vae.model, vae.guide, x, N)
    assert -loss == pytest.approx(truth.item() * N / len(x), rel=1e-10)


def test_the_enumerated_mixture_is_the_sum_over_components():
    vae, x = make(**MIXTURE, **LEARNED), images()
    torch.manual_seed(5)
    noise = torch.randn(4, len(x), 2)
    truth = brute_force_mixture(vae, x, noise)
    truth.backward()
    exact = gradient(vae)
    vae.zero_grad()
    torch.manual_seed(5)
    loss = make_objective(vae).loss_and_grads(vae.model, vae.guide, x)
    assert -loss == pytest.approx(truth.item(), rel=1e-10)
    assert_equal([-g for g in gradient(vae)], exact)


def test_the_mixtures_terms_average_to_pyros_bound():
    vae, x = make(**MIXTURE), images(2).repeat(20, 1)  # 20 draws at once
    elbo = make_objective(vae)
    with torch.no_grad(), pyro.validation_enabled(False):
        draws = torch.stack([vae.compute_elbo(x).sum() for _ in range(100)])
        pyros = torch.tensor(
            [-elbo.loss(vae.model, vae.guide, x) for _ in range(100)]
        )
    difference = draws.mean() - pyros.mean()
    error = (draws.var() / 100 + pyros.var() / 100).sqrt()
    assert abs(difference) < z_limit(1) * error


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(ONE, marks=pytest.mark.slow),
        pytest.param(THREE, marks=pytest.mark.slow),
        MIXTURE,
    ],
    ids=["one", "three", "mixture"],
)
def test_the_compiled_step_enumerates_too(choices):
    """A step of plain descent shows the gradient itself."""
    moved = []
    for engine in (SVI, CompiledSVI):
        vae, x = make(hidden=(), **choices, **LEARNED), images()
        before = [p.detach().clone() for p in vae.parameters()]
        names = [name for name, _ in vae.named_parameters()]
        optim = torch.optim.SGD(vae.parameters(), lr=1e-3)
        if engine is SVI:
            optim = pyro.optim.SGD({"lr": 1e-3})
        svi = engine(vae.model, vae.guide, optim, make_objective(vae))
        torch.manual_seed(2)
        losses = [torch.tensor([svi.step(x, N) for _ in range(3)])]
        steps = [p - b for p, b in zip(vae.parameters(), before, strict=True)]
        moved.append(losses + steps)
        assert all(step.abs().sum() > 0 for step in steps), names
    assert_equal(*moved)


def sampled_gradients(vae, x, count, copies=1):
    """Draws of the gradient in the encoder's last layer, and of the loss.

    Each is the mean of draws for several copies of the images: as good as
    that many draws, in the time of one.
    """
    elbo = make_objective(vae)
    parameter = vae.guide.encoder.layers[-1].bias
    draws, losses, x = [], [], x.repeat(copies, 1)
    with pyro.validation_enabled(False):
        for _ in range(count):
            vae.zero_grad()
            losses.append(elbo.loss_and_grads(vae.model, vae.guide, x))
            draws.append(-parameter.grad / copies)
    return torch.stack(draws), -torch.tensor(losses) / copies


def exact_gradient(vae, x):
    vae.zero_grad()
    elbo = vae.compute_elbo(x).sum()
    elbo.backward()
    parameter = vae.guide.encoder.layers[-1].bias
    return parameter.grad.clone(), elbo.detach()


@pytest.mark.parametrize("choices", [THREE], ids=["three"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ScoreFunction, {"gradient": "score-function"}),
        (DecayingBaseline, {"gradient": "score-function-baseline"}),
        (
            LearnedBaseline,
            {"gradient": "score-function-baseline", "baseline": "learned"},
        ),
    ],
    ids=["none", "decaying", "learned"],
)
def test_score_functions_are_unbiased(kind, options, choices):
    vae, x = make(**choices, **options), images(3)
    estimator = vae.guide.gradient
    baseline = estimator.baseline
    assert isinstance(estimator if baseline is None else baseline, kind)
    draws, losses = sampled_gradients(vae, x, 100, copies=6)
    truth, elbo = exact_gradient(vae, x)
    assert_mean(draws, truth)
    assert_mean(losses, elbo)


def test_a_baseline_lowers_the_variance():
    variances = []
    for options in (
        {"gradient": "score-function"},
        {"gradient": "score-function-baseline"},
    ):
        vae, x = make(**ONE, **options), images(3)
        draws, _ = sampled_gradients(vae, x, 100, copies=4)
        variances.append(draws[30:].var(0).sum())
    assert variances[1] < 0.5 * variances[0]
    vae = make(**ONE)
    draws, _ = sampled_gradients(vae, images(3), 5)
    assert draws.var(0).max() < 1e-25  # enumerated: nothing is drawn


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_gumbel_softmax_is_biased_at_a_finite_temperature(hard):
    """Where the decoder is far from linear in z."""
    choices = {"gradient": "gumbel-softmax", "straight_through": hard}
    vae, x = make(**ONE, **choices, temperature=5.0), images(3)
    vae.likelihood.decoder.layers[0].weight.data.mul_(20)
    draws, losses = sampled_gradients(vae, x, 100, copies=20)
    truth, elbo = exact_gradient(vae, x)
    z = (draws.mean(0) - truth) / (draws.std(0) / len(draws) ** 0.5)
    assert z.abs().max() > 2 * z_limit(len(z))
    if hard:  # the values at least are those of one-hot draws
        assert_mean(losses, elbo)


def test_the_score_function_of_a_continuous_pair():
    """Unbiased for what the pathwise gradient estimates."""
    pathwise, x = make(), images(3)
    score = make(gradient="score-function")
    left, _ = sampled_gradients(pathwise, x, 100, copies=8)
    right, _ = sampled_gradients(score, x, 100, copies=8)
    error = ((left.var(0) + right.var(0)) / 100).sqrt()
    z = (left.mean(0) - right.mean(0)) / error
    assert z.abs().max() < z_limit(len(z))
    assert right.var(0).sum() > 2 * left.var(0).sum()


@pytest.mark.parametrize("options", [{}, {"baseline": "learned"}])
def test_a_baseline_takes_the_last_smaller_minibatch_and_particles(options):
    choices = {"gradient": "score-function-baseline", **options}
    vae = make(**ONE, **choices)
    optim = pyro.optim.Adam({"lr": 1e-3})
    svi = SVI(vae.model, vae.guide, optim, make_objective(vae, num_particles=3))
    before = {name: p.clone() for name, p in vae.state_dict().items()}
    for size in (8, 8, 3):
        svi.step(images(size), N)
    after = vae.state_dict()
    still = [n for n, p in before.items() if torch.equal(p, after[n])]
    assert not still


def test_the_decaying_baseline_is_the_average_of_what_it_saw():
    baseline = DecayingBaseline(decay=0.5)
    assert baseline(torch.zeros(2, 4)).tolist() == [0, 0]
    for elbo in (8.0, 2.0):
        baseline.update(elbo)
    expected = (0.25 * 8 + 0.5 * 2) / 0.75
    assert baseline(torch.zeros(2, 4)).tolist() == [expected] * 2


def test_each_pair_has_its_loss_and_marks_its_sites():
    for choices, loss, estimator in [
        ({}, Trace_ELBO, Pathwise),
        (ONE, TraceEnum_ELBO, Enumerated),
        (MIXTURE, TraceEnum_ELBO, Enumerated),
        ({**ONE, "gradient": "gumbel-softmax"}, Trace_ELBO, GumbelSoftmax),
        ({**ONE, "gradient": "score-function"}, Trace_ELBO, ScoreFunction),
        (
            {**ONE, "gradient": "score-function-baseline"},
            BaselineELBO,
            ScoreFunction,
        ),
    ]:
        vae = make(**choices)
        assert type(make_objective(vae)) is loss
        assert type(vae.guide.gradient) is estimator
        trace = poutine.trace(vae.guide).get_trace(images())
        site = trace.nodes["y" if choices == MIXTURE else "z"]
        is_marked = site["infer"].get("enumerate") == "parallel"
        assert is_marked == (estimator is Enumerated)


def test_an_estimator_that_cannot_take_the_latents_is_refused():
    vae = make(**ONE)
    with pytest.raises(ValueError, match="Pathwise for a prior of type Cat"):
        VAE(vae.prior, vae.likelihood, vae.guide.distribution, Pathwise())
    other = make()
    with pytest.raises(ValueError, match="expected discrete latents"):
        VAE(
            other.prior,
            other.likelihood,
            other.guide.distribution,
            Enumerated(),
        )
    with pytest.raises(ValueError, match="temperature is 0"):
        GumbelSoftmax(0)
