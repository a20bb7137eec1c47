import math

import numpy as np
import pytest
import torch

from pyro_vae import (
    MLP,
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
)
from pyro_vae.parts.likelihoods import ExactContinuousBernoulli, log_normalizer


def decoder():
    return MLP(2, 6, output_activation="sigmoid")


def logits_decoder():
    return MLP(2, 6, init_std=0.5)


@pytest.mark.parametrize(
    ("noise", "learned"), [("shared", 1), ("fixed", 0), ("diagonal", 6)]
)
def test_sigma_is_learned_unless_fixed(noise, learned):
    likelihood = GaussianLikelihood(decoder(), noise, noise_scale=0.3)
    assert torch.allclose(likelihood.scale, torch.tensor(0.3))
    count = dict(likelihood.named_parameters()).get("log_scale")
    assert (0 if count is None else count.numel()) == learned


def test_the_density_is_the_formula():
    likelihood = GaussianLikelihood(decoder(), noise_scale=0.3)
    z, x = torch.randn(4, 5, 2), torch.rand(5, 6)
    p = likelihood(z)
    assert p.batch_shape == (4, 5) and p.event_shape == (6,)
    residual = (x - likelihood.decoder(z)) / 0.3
    log_norm = math.log(0.3) + 0.5 * math.log(2 * math.pi)
    expected = (-0.5 * residual.square() - log_norm).sum(-1)
    assert torch.allclose(p.log_prob(x), expected)
    assert torch.equal(p.mean, likelihood.decoder(z))


def test_a_pixel_that_is_always_black_stops_at_the_lower_bound():
    likelihood = GaussianLikelihood(
        lambda z: torch.zeros(len(z), 1), "diagonal", torch.tensor([0.5]), 0.05
    )
    optim = torch.optim.Adam(likelihood.parameters(), lr=0.1)
    x = z = torch.zeros(8, 1)
    for _ in range(500):
        optim.zero_grad()
        (-likelihood(z).log_prob(x).mean()).backward()
        optim.step()
    assert 0.05 < likelihood.scale.item() < 0.051


def test_a_vector_of_scales():
    scale = torch.linspace(0.1, 0.6, 6)
    for noise in ("fixed", "diagonal"):
        assert torch.allclose(
            GaussianLikelihood(decoder(), noise, scale).scale, scale
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shard",), "'shard'; expected one of shared, fixed, diagonal"),
        (("shared", 0.01), "0.01; expected it above 0.01"),
        (("fixed", 0.0), "0.0; expected it above 0.0"),
        (("fixed", math.inf), "inf; expected it above"),
        (("shared", torch.ones(6)), "use noise='diagonal'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianLikelihood(decoder(), *arguments)


def test_diagonal_noise_must_know_its_size():
    with pytest.raises(ValueError, match="Sigmoid has no out_features"):
        GaussianLikelihood(torch.nn.Sigmoid(), "diagonal", 0.3)


def test_bernoulli_is_the_formula():
    likelihood = BernoulliLikelihood(logits_decoder())
    z, x = torch.randn(4, 5, 2), torch.rand(5, 6).round()
    p = likelihood(z)
    assert p.batch_shape == (4, 5) and p.event_shape == (6,)
    mean = likelihood.decoder(z).sigmoid()
    expected = torch.where(x == 1, mean, 1 - mean).log().sum(-1)
    assert torch.allclose(p.log_prob(x), expected)
    assert torch.equal(p.mean, mean)
    everything = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
    total = likelihood(z[0, 0]).log_prob(everything).exp().sum()
    assert total.item() == pytest.approx(1)


def test_gray_pixels_pass_a_bernoulli_without_normalizing():
    likelihood, z = BernoulliLikelihood(lambda z: z), torch.tensor([0.7])
    x = torch.linspace(0, 1, 1001).unsqueeze(-1)
    density = likelihood(z).log_prob(x).exp()
    assert torch.trapezoid(density, x.squeeze(-1)) < 0.6


LOGITS = [-200.0, -30.0, -2.0, -0.1001, -0.0999, -1e-3, 0.0, 1e-8, 0.05, 3.0]


@pytest.mark.parametrize("logit", LOGITS)
def test_the_continuous_bernoulli_integrates_to_one(logit):
    """Gauss and Legendre's rule, on intervals that follow its decay."""
    node, weight = map(torch.as_tensor, np.polynomial.legendre.leggauss(40))
    edges = torch.cat([torch.zeros(1), torch.logspace(-3, 0, 12)])
    width = edges.diff().unsqueeze(-1)
    x = (edges[:-1].unsqueeze(-1) + width * (node + 1) / 2).flatten()
    weight = (width * weight / 2).flatten()
    x = x if logit < 0 else 1 - x
    p = ExactContinuousBernoulli(logits=torch.tensor(logit))
    density = p.log_prob(x).exp()
    assert (weight * density).sum().item() == pytest.approx(1, abs=1e-12)
    mean = (weight * density * x).sum().item()
    assert p.mean.item() == pytest.approx(mean, abs=1e-12)


def test_the_continuous_bernoulli_in_float32():
    """torch's own is off by 0.6 nats a pixel at the logits of black ones."""
    logits = torch.cat([torch.linspace(-60, 60, 4001), torch.zeros(1)])
    exact = log_normalizer(logits)
    ours = log_normalizer(logits.float()).double()
    assert (ours - exact).abs().max() < 1e-6
    theirs = torch.distributions.ContinuousBernoulli(logits=logits.float())
    assert (theirs._cont_bern_log_norm().double() - exact).abs().max() > 0.5
    means = [
        ExactContinuousBernoulli(logits=of).mean.double()
        for of in (logits.float(), logits)
    ]
    assert (means[0] - means[1]).abs().max() < 3e-6


def test_the_continuous_bernoullis_gradient_has_no_seam():
    logits = torch.linspace(-0.3, 0.3, 601, requires_grad=True)
    (slope,) = torch.autograd.grad(log_normalizer(logits).sum(), logits)
    assert (slope.diff() > 0).all() and slope[300].abs() < 1e-15
    assert slope.diff().diff().abs().max() < 1e-7


def test_the_continuous_bernoulli_likelihood():
    likelihood = ContinuousBernoulliLikelihood(logits_decoder())
    z, x = torch.randn(4, 5, 2), torch.rand(5, 6)
    p = likelihood(z)
    assert p.batch_shape == (4, 5) and p.event_shape == (6,)
    logits = likelihood.decoder(z)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits)
    assert torch.allclose(p.log_prob(x), theirs.log_prob(x).sum(-1))
    assert torch.allclose(p.mean, theirs.mean)
    assert torch.allclose(
        p.expand((3, 4, 5)).log_prob(x), p.log_prob(x).expand(3, 4, 5)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianLikelihood(decoder(), "shared", 0.3),
        lambda: GaussianLikelihood(decoder(), "fixed", 0.3),
        lambda: GaussianLikelihood(
            decoder(), "fixed", torch.linspace(0.1, 0.6, 6)
        ),
        lambda: GaussianLikelihood(
            decoder(), "diagonal", torch.linspace(0.1, 0.6, 6)
        ),
        lambda: BernoulliLikelihood(logits_decoder()),
        lambda: ContinuousBernoulliLikelihood(logits_decoder()),
    ],
    ids=[
        "shared",
        "fixed",
        "fixed each",
        "diagonal",
        "bernoulli",
        "continuous",
    ],
)
def test_all_pairs_at_once_are_the_pairs_one_by_one(make):
    likelihood, z, x = make(), torch.randn(7, 2), torch.rand(5, 6)
    pairs = likelihood.cross_log_prob(z, x)
    assert pairs.shape == (7, 5)
    expected = likelihood(z.unsqueeze(1)).log_prob(x)
    assert torch.allclose(pairs, expected, rtol=1e-12, atol=1e-11)
