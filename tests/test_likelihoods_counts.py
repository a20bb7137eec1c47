"""Likelihoods of counts, of 8-bit pixels, and of data with outliers."""

import math

import pytest
import torch
from scipy import stats

from pyro_vae import (
    MLP,
    BernoulliLikelihood,
    Config,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StudentTLikelihood,
    build,
)
from pyro_vae.parts.likelihoods import Levels, check_data
from pyro_vae.parts.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.parts.likelihoods.negative_binomial import MeanNegativeBinomial
from pyro_vae.parts.likelihoods.poisson import LogPoisson
from pyro_vae.parts.likelihoods.student_t import ExactStudentT
from tests.statistics import z_limit

D = 6
LEVELS = torch.arange(256, dtype=torch.float64) / 255
THETA = torch.tensor([0.3, 1.0, 2.0, 5.0, 10.0, 300.0])


def decoder(size=D):
    return MLP(2, size, init_std=0.5)


def counts(*shape):
    return torch.poisson(20 * torch.rand(*shape).square())


def pixels(*shape):
    return (255 * torch.rand(*shape)).round() / 255


def negative_binomial(library="observed"):
    return NegativeBinomialLikelihood(
        decoder(), library, 30.0, inverse_dispersion=THETA
    )


MAKES = {
    "poisson": (lambda: PoissonLikelihood(decoder()), counts),
    "poisson, learned": (
        lambda: PoissonLikelihood(decoder(), "learned", 30.0),
        counts,
    ),
    "negative binomial": (negative_binomial, counts),
    "negative binomial, learned": (
        lambda: negative_binomial("learned"),
        counts,
    ),
    "student": (lambda: StudentTLikelihood(decoder()), torch.randn),
    "student, each": (
        lambda: StudentTLikelihood(
            decoder(), "diagonal", torch.linspace(0.1, 0.6, D), df=2.5
        ),
        torch.randn,
    ),
    "logistic": (lambda: DiscretizedLogisticLikelihood(decoder()), pixels),
    "logistic, each": (
        lambda: DiscretizedLogisticLikelihood(
            decoder(), "fixed", torch.linspace(0.01, 0.6, D)
        ),
        pixels,
    ),
}


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("size", [5, 300])
def test_all_pairs_at_once_are_the_pairs_one_by_one(name, size):
    make, draw = MAKES[name]
    likelihood, z, x = make(), torch.randn(7, 2), draw(size, D)
    pairs = likelihood.cross_log_prob(z, x)
    assert pairs.shape == (7, size)
    expected = likelihood(z.unsqueeze(1)).log_prob(x)
    assert torch.allclose(pairs, expected, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("name", MAKES)
def test_a_likelihood_has_the_shapes_of_its_contract(name):
    make, draw = MAKES[name]
    likelihood, z, x = make(), torch.randn(4, 5, 2), draw(5, D)
    p = likelihood(z)
    assert p.batch_shape == (4, 5) and p.event_shape == (D,)
    assert p.mean.shape == (4, 5, D) and p.mean.isfinite().all()
    assert likelihood.mean_like(p, x).shape == (4, 5, D)
    wider = p.expand((3, 4, 5))
    assert wider.batch_shape == (3, 4, 5)
    assert torch.equal(wider.log_prob(x)[1], p.log_prob(x))
    sample = p.sample((2,))
    assert sample.shape == (2, 4, 5, D)
    check_data(likelihood, sample.flatten(0, -2))


@pytest.mark.parametrize("mean", [1e-3, 0.7, 12.0])
@pytest.mark.parametrize("theta", [None, 0.3, 4.0])
def test_counts_sum_to_one_and_are_scipys(mean, theta):
    x, log_mean = torch.arange(5000.0), torch.tensor(mean).log()
    if theta is None:
        p, scipys = LogPoisson(log_mean), stats.poisson(mean)
        variance = mean
    else:
        p = MeanNegativeBinomial(log_mean, torch.tensor(theta))
        scipys = stats.nbinom(theta, theta / (theta + mean))
        variance = mean + mean**2 / theta
    log_p = p.log_prob(x)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    some = x[:100]
    expected = torch.as_tensor(scipys.logpmf(some.numpy()))
    assert torch.allclose(log_p[:100], expected, rtol=1e-9, atol=1e-9)
    assert (log_p.exp() * x).sum().item() == pytest.approx(p.mean.item())
    assert p.variance.item() == pytest.approx(variance)
    draws = p.sample((20_000,))
    error = (variance / 20_000) ** 0.5
    assert abs(draws.mean().item() - mean) < z_limit(1) * error


def test_counts_in_float32_are_those_of_float64():
    """torch's own formulas lose nats to cancellation at such counts."""
    x, log_mean = torch.tensor([3.0, 2e4, 2e6]), torch.tensor([1.0, 9.9, 14.5])
    theta = torch.tensor([9000.0, 0.5, 100.0])
    for p, short in (
        (LogPoisson(log_mean), LogPoisson(log_mean.float())),
        (
            MeanNegativeBinomial(log_mean, theta),
            MeanNegativeBinomial(log_mean.float(), theta.float()),
        ),
    ):
        exact, found = p.log_prob(x), short.log_prob(x.float())
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), exact, rtol=1e-5, atol=0.02)


def test_a_poisson_is_the_limit_of_little_dispersion():
    x, log_mean = torch.arange(40.0), torch.tensor(2.0)
    limit = MeanNegativeBinomial(log_mean, torch.tensor(1e9)).log_prob(x)
    assert torch.allclose(limit, LogPoisson(log_mean).log_prob(x), atol=1e-5)


def test_a_reconstruction_has_the_library_of_its_row():
    vae = build(Config(likelihood="poisson", hidden=(4,)), D)
    x = counts(5, D)
    sums = vae.reconstruct(x).sum(-1)
    assert torch.allclose(sums, x.sum(-1).to(sums), rtol=1e-5)
    usual = vae.generate(torch.zeros(5, 2)).sum(-1)
    assert not torch.allclose(sums, usual)


@pytest.mark.parametrize(
    "kind", [PoissonLikelihood, NegativeBinomialLikelihood]
)
def test_the_observed_library_is_the_rows_sum(kind):
    likelihood, z, x = kind(decoder()), torch.randn(5, 2), counts(5, D)
    x[2] = 0  # a row without a count
    share = likelihood.decoder(z).softmax(-1)
    mean = x.sum(-1, keepdim=True) * share
    assert torch.allclose(
        likelihood.mean_like(likelihood(z), x), mean, atol=1e-7
    )
    log_p = likelihood(z).log_prob(x)
    theta = getattr(likelihood, "inverse_dispersion", None)
    for row in (0, 1, 3, 4):
        if theta is None:
            truth = stats.poisson(mean[row].detach())
        else:
            chance = (theta / (theta + mean[row])).detach()
            truth = stats.nbinom(theta.detach(), chance)
        expected = truth.logpmf(x[row]).sum()
        assert log_p[row].item() == pytest.approx(expected)
    assert log_p[2].item() == pytest.approx(0, abs=1e-6)
    (slope,) = torch.autograd.grad(
        log_p.sum(), likelihood.decoder.layers[0].weight
    )
    assert slope.isfinite().all()


def test_the_learned_library_is_the_decoders():
    likelihood = PoissonLikelihood(decoder(), "learned", 30.0)
    likelihood.log_library.data.fill_(0.1)
    z = torch.randn(5, 2)
    f, mean = likelihood.decoder(z), likelihood(z).mean
    library = 30 * math.exp(0.1) * f.exp().mean(-1, keepdim=True)
    assert torch.allclose(mean, library * f.softmax(-1))
    assert likelihood.library_size.item() == pytest.approx(30 * math.exp(0.1))


def test_the_usual_library_size_comes_from_the_first_data():
    likelihood, x = PoissonLikelihood(decoder()), counts(50, D)
    z = torch.randn(3, 2)
    sums = likelihood(z).mean.sum(-1)
    assert torch.allclose(sums, torch.full((3,), float(D)))
    for data in (x, 10 * x):  # the second is not the first
        likelihood.start(data)
        sums = likelihood(z).mean.sum(-1)
        assert torch.allclose(sums, x.sum(-1).mean().expand(3))


@pytest.mark.parametrize("df", [1.1, 4.0, 900.0])
def test_student_t_is_scipys_and_integrates_to_one(df):
    likelihood = StudentTLikelihood(lambda z: z, noise_scale=0.3, df=df)
    assert likelihood.df.item() == pytest.approx(df)
    x = torch.linspace(-3, 3, 50).unsqueeze(-1)
    log_p = likelihood(torch.tensor([0.7])).log_prob(x)
    expected = stats.t(df, 0.7, 0.3).logpdf(x.squeeze(-1))
    assert torch.allclose(log_p, torch.as_tensor(expected))
    u = torch.linspace(0, 1, 200_002)[1:-1]  # by x = 0.7 + tan
    x = (math.pi * (u - 0.5)).tan()
    p = likelihood(torch.tensor([0.7])).log_prob((0.7 + x).unsqueeze(-1)).exp()
    total = (p * math.pi * (1 + x.square())).mean()
    assert total.item() == pytest.approx(1, abs=1e-4)


def test_student_t_in_float32():
    """torch's own is off by 1e-4 nats a dimension at many degrees."""
    x, df = torch.linspace(-3, 3, 50), torch.tensor(900.0)
    exact = torch.distributions.StudentT(df).log_prob(x)
    ours = ExactStudentT(df.float(), torch.tensor(0.0).float()).log_prob(
        x.float()
    )
    assert (ours.double() - exact).abs().max() < 3e-6


def test_the_degrees_of_freedom_stay_in_their_bounds():
    likelihood = StudentTLikelihood(lambda z: z)
    for logit, df in ((-100.0, 1.0), (100.0, 1000.0)):
        likelihood.df_logit.data.fill_(logit)
        assert likelihood.df.item() == pytest.approx(df)


@pytest.mark.parametrize("loc", [-3.0, 0.0, 0.5001, 1.2])
@pytest.mark.parametrize("scale", [0.0011, 0.05, 2.0])
def test_the_levels_probabilities_sum_to_one(loc, scale):
    p = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale))
    log_p = p.log_prob(LEVELS)
    assert log_p.isfinite().all()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    logistic = stats.logistic(loc, scale)
    upper = logistic.cdf(LEVELS + 1 / 510)
    lower = logistic.cdf(LEVELS - 1 / 510)
    upper[-1], lower[0] = 1, 0
    expected = torch.as_tensor(upper - lower)
    assert torch.allclose(log_p.exp(), expected, atol=1e-14)
    mean = (log_p.exp() * LEVELS).sum().item()
    assert p.mean.item() == pytest.approx(mean, abs=1e-12)
    draws = p.sample((20_000,))
    spread = (log_p.exp() * (LEVELS - mean).square()).sum().item() ** 0.5
    error = spread / 20_000**0.5
    assert abs(draws.mean().item() - mean) <= z_limit(1) * error + 1e-12


def test_the_far_tails_have_gradients_in_float32():
    loc = torch.tensor(
        [-8.0, 8.0, 0.5], dtype=torch.float32, requires_grad=True
    )
    scale = torch.tensor(0.0011, dtype=torch.float32, requires_grad=True)
    p = DiscretizedLogistic(loc, scale)
    log_p = p.log_prob(torch.tensor([[0.0], [1.0], [0.5]]).float().round())
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert loc.grad.isfinite().all() and scale.grad.isfinite().all()


@pytest.mark.parametrize(
    ("likelihood", "good", "bad", "words"),
    [
        (PoissonLikelihood, 3.0, 2.5, "expected counts, which are whole"),
        (NegativeBinomialLikelihood, 0.0, -1.0, "x holds -1, .*counts"),
        (BernoulliLikelihood, 0.4, 1.5, r"holds 1.5, .*numbers in \[0, 1\]"),
        (ContinuousBernoulliLikelihood, 1.0, -0.5, r"numbers in \[0, 1\]"),
        (DiscretizedLogisticLikelihood, 3 / 255, 0.3001, "multiples of 1/255"),
        (DiscretizedLogisticLikelihood, 1.0, 256 / 255, "multiples of 1/255"),
        (GaussianLikelihood, -7.0, math.inf, "finite numbers"),
        (StudentTLikelihood, -7.0, math.nan, "has NaN in 1 of 3 rows"),
    ],
)
def test_data_outside_the_support_are_refused(likelihood, good, bad, words):
    x = torch.full((3, D), good)
    check_data(likelihood(decoder()), x)
    x[1, 2] = bad
    with pytest.raises(ValueError, match=f"{words}.*: "):
        check_data(likelihood(decoder()), x)


def test_levels_are_known_in_single_precision():
    assert Levels().check(LEVELS.float()).all()
    assert not Levels().check(LEVELS[1:].float() - 1e-5).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: PoissonLikelihood(f, "latent"), "one of observed, learned"),
        (lambda f: PoissonLikelihood(f, library_size=0.0), "library_size is 0"),
        (
            lambda f: NegativeBinomialLikelihood(f, inverse_dispersion=0.0),
            "inverse_dispersion is 0.0; expected it between",
        ),
        (lambda f: StudentTLikelihood(f, df=1.0), "df is 1.0; expected"),
        (lambda f: StudentTLikelihood(f, "shard"), "noise is 'shard'"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make(decoder())
