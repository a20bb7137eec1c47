"""Pyro against the hand formulas, and the hand formulas against the truth."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO
from scipy import stats
from torch import nn
from torch.distributions import (
    Laplace,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyro_vae import Config, build
from pyro_vae.by_hand import (
    Layers,
    diagonal_gaussian_kl,
    gaussian_kl,
    gaussian_log_density,
    laplace_reparameterize,
    log_weight,
    minibatch_elbo,
    phi_gradient,
    theta_gradient,
)
from tests.statistics import FAILURE_RATE, assert_mean

B, D, N = 6, 64, 60
SCALE = torch.tensor(0.4, dtype=torch.float64)


def layers(module: nn.Module) -> Layers:
    first, second = (m for m in module.modules() if isinstance(m, nn.Linear))
    return Layers(first.weight, first.bias, second.weight, second.bias)


@pytest.fixture(params=[1, 3], ids=["one particle", "three particles"])
def at_fixed_noise(request):
    """A VAE with Pyro's loss and gradients, and all that went into them."""
    num_particles = request.param
    vae = build(Config(hidden=(16,), noise_scale=0.4), D)
    for parameter in vae.parameters():  # biases away from zero, too
        nn.init.normal_(parameter, std=0.3) if parameter.dim() else None
    x = torch.rand(B, D)
    objective = Trace_ELBO(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        max_plate_nesting=1,
    )
    torch.manual_seed(1)
    loss = objective(vae.model, vae.guide)(x, N)
    loss.backward()
    torch.manual_seed(1)
    epsilon = torch.randn(num_particles, B, 2)
    encoder = layers(vae.guide.encoder)
    decoder = layers(vae.likelihood.decoder)
    return vae, x, epsilon, encoder, decoder, loss


def assert_close(left, right):
    atol = 1e-9 * max(1.0, right.abs().max().item())
    torch.testing.assert_close(
        left.detach(), right.detach(), rtol=1e-9, atol=atol
    )


def test_1a_pyros_loss_is_the_hand_written_estimate(at_fixed_noise):
    _, x, epsilon, encoder, decoder, loss = at_fixed_noise
    weights = log_weight(x, epsilon, encoder, decoder, SCALE, 1e-4)
    assert weights.shape == epsilon.shape[:2]
    assert_close(-loss, minibatch_elbo(weights, N))


def test_1a_the_estimate_is_unbiased_over_minibatches():
    weights = torch.randn(3, N)
    whole = minibatch_elbo(weights, N)
    parts = [
        minibatch_elbo(part, N)
        for part in weights[:, torch.randperm(N)].split(B, dim=1)
    ]
    assert_close(torch.stack(parts).mean(), whole)
    assert_close(whole, weights.mean(0).sum())


def test_1b_the_gradient_in_theta(at_fixed_noise):
    vae, x, epsilon, _, decoder, _ = at_fixed_noise
    q = vae.infer(x).base_dist
    z = q.loc + q.scale * epsilon
    in_decoder, in_scale = theta_gradient(x, z, decoder, SCALE, N)
    for parameter, gradient in zip(decoder, in_decoder, strict=True):
        assert_close(-parameter.grad, gradient)
    d_scale = SCALE - vae.likelihood.min_scale  # d scale / d log_scale
    assert_close(-vae.likelihood.log_scale.grad, in_scale * d_scale)


def test_1d_the_reparameterized_gradient_in_phi(at_fixed_noise):
    _, x, epsilon, encoder, decoder, _ = at_fixed_noise
    gradients = phi_gradient(x, epsilon, encoder, decoder, SCALE, N, 1e-4)
    for parameter, gradient in zip(encoder, gradients, strict=True):
        assert_close(-parameter.grad, gradient)


def test_1d_is_unbiased_for_the_gradient_of_the_closed_form_bound():
    """A decoder that ignores z leaves -KL(q, p), known in closed form."""
    x = torch.rand(B, 3)
    encoder = Layers(
        torch.randn(5, 3), torch.randn(5), torch.randn(4, 5), torch.randn(4)
    )
    decoder = Layers(
        torch.randn(5, 2), torch.randn(5), torch.zeros(3, 5), torch.zeros(3)
    )
    phi = [p.clone().requires_grad_() for p in encoder]
    hidden = torch.relu(x @ phi[0].T + phi[1])
    loc, unconstrained = (hidden @ phi[2].T + phi[3]).chunk(2, -1)
    scale = nn.functional.softplus(unconstrained)
    kl = kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).sum()
    exact = torch.autograd.grad(-kl, phi)
    draws = [
        phi_gradient(x, torch.randn(1, B, 2), encoder, decoder, SCALE, B)
        for _ in range(2000)
    ]
    for index, truth in enumerate(exact):
        samples = torch.stack([draw[index] for draw in draws])
        varying = samples.std(0) > 1e-12  # a dead unit's gradient is zero
        assert varying.float().mean() > 0.5
        assert_mean(samples[:, varying], truth[varying])


def test_the_density_is_torchs():
    x, loc, scale = torch.randn(4, 3), torch.randn(3), torch.rand(3) + 0.1
    expected = Normal(loc, scale).log_prob(x).sum(-1)
    assert_close(gaussian_log_density(x, loc, scale), expected)


def gaussians(seed: int, dim: int):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def covariance():
        root = randn(dim, dim)
        return root @ root.T + 0.1 * torch.eye(dim, dtype=torch.float64)

    return randn(dim), covariance(), randn(dim), covariance(), randn


seeds = st.integers(0, 2**32 - 1)
dims = st.integers(1, 5)


@given(seeds, dims)
@settings(deadline=None)
def test_1c_the_kl_is_torchs(seed, dim):
    loc1, cov1, loc2, cov2, _ = gaussians(seed, dim)
    expected = kl_divergence(
        MultivariateNormal(loc1, cov1), MultivariateNormal(loc2, cov2)
    )
    assert torch.isclose(gaussian_kl(loc1, cov1, loc2, cov2), expected)


@given(seeds, dims)
@settings(deadline=None)
def test_1c_the_kl_is_zero_iff_equal_and_never_negative(seed, dim):
    loc1, cov1, loc2, cov2, _ = gaussians(seed, dim)
    assert abs(gaussian_kl(loc1, cov1, loc1, cov1)) < 1e-10
    assert gaussian_kl(loc1, cov1, loc2, cov2) > 0
    assert gaussian_kl(loc1, cov1, loc2, cov1) > 0
    assert gaussian_kl(loc1, cov1, loc1, 1.01 * cov1) > 0


@given(seeds, dims)
@settings(deadline=None)
def test_1c_the_kl_is_invariant_under_a_common_affine_map(seed, dim):
    loc1, cov1, loc2, cov2, randn = gaussians(seed, dim)
    matrix, shift = randn(dim, dim), randn(dim)
    matrix = matrix + 2 * dim * torch.eye(dim, dtype=torch.float64)
    moved = gaussian_kl(
        matrix @ loc1 + shift,
        matrix @ cov1 @ matrix.T,
        matrix @ loc2 + shift,
        matrix @ cov2 @ matrix.T,
    )
    expected = gaussian_kl(loc1, cov1, loc2, cov2)
    assert torch.isclose(moved, expected, rtol=1e-8, atol=1e-10)


def test_1c_the_diagonal_case_is_the_full_one():
    loc1, loc2 = torch.randn(2, 7, 3)
    scale1, scale2 = torch.rand(2, 7, 3) + 0.1
    full = gaussian_kl(
        loc1,
        torch.diag_embed(scale1**2),
        loc2,
        torch.diag_embed(scale2**2),
    )
    assert full.shape == (7,)
    assert_close(diagonal_gaussian_kl(loc1, scale1, loc2, scale2), full)


def test_1c_a_matrix_that_is_no_covariance_is_named():
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="cov2 is not positive definite"):
        gaussian_kl(torch.zeros(2), eye, torch.zeros(2), -eye)


def test_4a_kolmogorov_smirnov():
    b = 0.7
    z = laplace_reparameterize(torch.rand(20_000) - 0.5, b).numpy()

    def p_value(scale):
        return stats.kstest(z, stats.laplace(scale=scale).cdf).pvalue

    assert p_value(b) > FAILURE_RATE > p_value(1.1 * b)


def test_4a_moments():
    b = 0.7
    z = laplace_reparameterize(torch.rand(50_000) - 0.5, b)
    assert_mean(z, 0.0)
    assert_mean(z.abs(), b)
    assert_mean(z.square(), 2 * b**2)


def test_4a_the_map_is_the_inverse_distribution_function_and_torchs():
    epsilon = torch.linspace(-0.499, 0.499, 101)
    z = laplace_reparameterize(epsilon, 0.7)
    assert_close(Laplace(0.0, 0.7).cdf(z), epsilon + 0.5)
    assert_close(Laplace(0.0, 0.7).icdf(epsilon + 0.5), z)


def test_4a_pyros_laplace_guide_uses_this_map():
    vae = build(Config(guide="laplace", hidden=(16,)), D)
    x = torch.rand(B, D)
    q = vae.infer(x)
    torch.manual_seed(1)
    z = q.rsample()
    torch.manual_seed(1)
    finfo = torch.finfo(torch.float64)
    uniform = torch.empty(B, 2).uniform_(finfo.eps - 1, 1)
    noise = laplace_reparameterize(uniform / 2, q.base_dist.scale)
    assert_close(z, q.base_dist.loc + noise)


def test_4a_the_ends_of_the_interval_are_refused():
    with pytest.raises(ValueError, match="expected it inside"):
        laplace_reparameterize(torch.tensor([0.0, 0.5]), 1.0)
