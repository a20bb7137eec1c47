"""Against probabilistic PCA, where every answer has a closed form."""

import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from pyro_vae import (
    VAE,
    Config,
    GaussianLikelihood,
    NormalGuide,
    NormalPrior,
    build,
)
from pyro_vae.evaluation import (
    annealed_bound,
    check_aggregate,
    default_method,
    gaps,
    importance_bound,
    integrate,
    log_marginal_likelihood,
    log_weights,
    posterior_density,
    posterior_kl,
    sum_states,
)
from pyro_vae.objectives import make_objective
from tests.statistics import Z_LIMIT, assert_mean, z_limit

D, NOISE = 6, 0.5


class Linear(nn.Linear):
    """A decoder that is a matrix."""

    def __init__(self, latent_dim=2):
        super().__init__(latent_dim, D)


def linear_vae(latent_dim=2, exact=False):
    """Probabilistic PCA; `exact`: principal axes, and the best encoder."""
    decoder = Linear(latent_dim)
    nn.init.normal_(decoder.weight)
    if exact:
        axes, _ = torch.linalg.qr(decoder.weight.data)
        decoder.weight.data = axes * torch.arange(1.0, latent_dim + 1)
    encoder = nn.Linear(D, 2 * latent_dim)
    nn.init.normal_(encoder.weight, std=0.1)
    guide = NormalGuide(encoder)
    if exact:
        covariance = posterior(decoder.weight, torch.zeros(1, D))[1]
        gain = covariance @ decoder.weight.T / NOISE**2
        encoder.weight.data[:latent_dim] = gain
        encoder.bias.data[:latent_dim] = -gain @ decoder.bias
        encoder.weight.data[latent_dim:] = 0
        scale = covariance.diagonal().sqrt() - guide.min_scale
        encoder.bias.data[latent_dim:] = scale.expm1().log()
    likelihood = GaussianLikelihood(decoder, "fixed", NOISE)
    return VAE(NormalPrior(latent_dim), likelihood, guide)


def posterior(weight, residual):
    """The exact posterior's means and covariance."""
    precision = torch.eye(weight.shape[1]) + weight.T @ weight / NOISE**2
    covariance = precision.inverse().detach()
    return residual @ weight.detach() @ covariance / NOISE**2, covariance


def exact_log_marginal(vae, x):
    weight, bias = vae.likelihood.decoder.weight, vae.likelihood.decoder.bias
    covariance = weight @ weight.T + NOISE**2 * torch.eye(D)
    return dist.MultivariateNormal(bias, covariance).log_prob(x).detach()


def images(vae, size=20):
    with torch.no_grad():
        z = torch.randn(size, vae.prior().event_shape[0])
        return vae.likelihood(z).sample(), z


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_is_exact(latent_dim):
    vae = linear_vae(latent_dim)
    x, _ = images(vae)
    x[0] += 20  # far out, where neither prior nor guide have put a cell
    result = integrate(vae, x)
    truth = exact_log_marginal(vae, x)
    error = (result.log_marginal_likelihood - truth).abs()
    assert error.max() < 1e-3 and result.error.max() <= 1e-3
    again = log_marginal_likelihood(vae, x, method="quadrature")
    assert torch.equal(again.value, result.log_marginal_likelihood)


def test_the_quadrature_of_narrow_peaks_beside_one_far_out(monkeypatch):
    """A larger domain for one image must not hide the others' peaks."""
    monkeypatch.setattr(sys.modules[__name__], "NOISE", 0.01)
    vae = linear_vae(exact=True)
    x, _ = images(vae)
    with torch.no_grad():
        x[0] = vae.generate(torch.tensor([[300.0, -200.0]]))
    result = integrate(vae, x, 1e-2)
    truth = exact_log_marginal(vae, x)
    error = (result.log_marginal_likelihood - truth).abs()
    assert error.max() < 1e-2 and result.error.max() <= 1e-2


def test_the_quadrature_of_heavy_tails_and_kinks():
    """Against a plain sum, over a line far longer than the prior's bulk."""
    config = Config(
        prior="student-t",
        prior_df=2.0,
        latent_dim=1,
        hidden=(8,),
        init_std=1.0,
        noise_scale=0.2,
    )
    vae = build(config, data_dim=6)
    with torch.no_grad():
        x = vae.generate(torch.tensor([[0.1], [-3.0], [60.0]]))
    result = integrate(vae, x)
    step = 4e-3
    with torch.no_grad():
        parts = [
            vae.prior().log_prob(z).unsqueeze(1)
            + vae.likelihood(z.unsqueeze(1)).log_prob(x)
            for z in torch.arange(-4000, 4000, step).unsqueeze(1).split(100_000)
        ]
    truth = torch.cat(parts).logsumexp(0) + math.log(step)
    error = (result.log_marginal_likelihood - truth).abs()
    assert (error <= result.error + 1e-5).all() and error.max() <= 1e-3


def test_quadrature_in_float32_is_as_good():
    vae = linear_vae()
    x, _ = images(vae)
    truth = exact_log_marginal(vae, x)
    result = integrate(vae.float(), x.float())
    assert (result.log_marginal_likelihood - truth).abs().max() < 1e-3


def test_a_likelihood_without_matrix_products_is_integrated_too():
    class Plain(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, z):
            return self.base(z)

    vae = linear_vae()
    x, _ = images(vae, 3)
    plain = VAE(vae.prior, Plain(vae.likelihood), vae.guide.distribution)
    left, right = (integrate(v, x) for v in (vae, plain))
    assert torch.allclose(
        left.log_marginal_likelihood, right.log_marginal_likelihood
    )


def test_the_posterior_on_a_grid():
    vae = linear_vae()
    x, _ = images(vae, 1)
    loc, covariance = posterior(
        vae.likelihood.decoder.weight, x - vae.likelihood.decoder.bias
    )
    reach = 8 * covariance.diagonal().sqrt()
    z, density = posterior_density(vae, x, loc[0] - reach, loc[0] + reach)
    truth = dist.MultivariateNormal(loc[0], covariance).log_prob(z).exp()
    assert (density - truth).abs().max() < 1e-6 * truth.max()


def test_the_importance_bound_agrees_and_says_how_well():
    vae = linear_vae()
    x, _ = images(vae)
    truth = exact_log_marginal(vae, x)
    result = importance_bound(vae, x, 20_000)
    error = result.log_marginal_likelihood - truth
    z = error / result.standard_error
    assert z.abs().max() < z_limit(len(x)) and error.abs().max() > 0
    assert (result.effective_sample_size < 20_000).all()


def test_the_exact_guide_has_weights_of_no_variance():
    vae = linear_vae(exact=True)
    x, _ = images(vae)
    result = importance_bound(vae, x, 100)
    truth = exact_log_marginal(vae, x)
    assert torch.allclose(result.log_marginal_likelihood, truth)
    assert torch.allclose(
        result.effective_sample_size, torch.full((len(x),), 100.0)
    )
    assert result.standard_error.max() < 1e-5


def test_the_bound_rises_with_the_samples():
    vae = linear_vae()
    x, _ = images(vae, 10)
    weights = log_weights(vae, x, 10_000).detach()
    bounds = [
        weights.view(-1, k, 10).logsumexp(1).sub(math.log(k)).mean()
        for k in (1, 10, 100)
    ]
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[2] < exact_log_marginal(vae, x).mean() + 1e-9
    assert_mean(weights.mean(1), vae.compute_elbo(x, 10_000).mean())


def test_chunks_do_not_change_the_estimate(monkeypatch):
    from pyro_vae.evaluation import importance

    vae = linear_vae(exact=True)
    vae.guide.distribution.encoder.bias.data += 0.1
    x, _ = images(vae, 47)
    truth = exact_log_marginal(vae, x)
    monkeypatch.setattr(importance, "COMPILE_FROM", 1000)
    compiled = importance_bound(vae, x, 1234)
    z = (compiled.log_marginal_likelihood - truth) / compiled.standard_error
    assert z.abs().max() < z_limit(len(x))
    monkeypatch.setattr(importance, "COMPILE_FROM", math.inf)
    eager = importance_bound(vae, x, 1234)
    assert torch.allclose(
        compiled.log_marginal_likelihood, eager.log_marginal_likelihood
    )


def test_annealing_agrees_from_both_sides():
    vae = linear_vae()
    x, z = images(vae, 15)
    truth = exact_log_marginal(vae, x)
    result = annealed_bound(vae, x, 32, 60, z=z)
    score = (result.log_marginal_likelihood - truth) / result.standard_error
    assert score.abs().max() < z_limit(len(x))
    assert 0.4 < result.acceptance.mean() < 0.95
    gap = result.upper_bound - result.log_marginal_likelihood
    assert gap.mean().abs() < Z_LIMIT * gap.std() / len(gap) ** 0.5
    assert gap.mean().abs() < 0.5
    # The mean of each is on its own side, up to its error.
    error = result.standard_error.square().mean().sqrt() / len(x) ** 0.5
    assert (result.upper_bound - truth).mean() > -Z_LIMIT * error


def test_discrete_latents_are_summed_out():
    vae = build(Config(prior="categorical", hidden=(8,), num_variables=2), D)
    x = torch.rand(5, D)
    z = vae.prior().enumerate_support()
    brute = [
        torch.stack(
            [
                vae.prior().log_prob(one) + vae.likelihood(one).log_prob(image)
                for one in z
            ]
        ).logsumexp(0)
        for image in x
    ]
    total = sum_states(vae, x)
    assert torch.allclose(total, torch.stack(brute).detach())
    assert default_method(vae) == "exact"
    assert (total >= vae.compute_elbo(x)).all()
    with pytest.raises(ValueError, match="expected one or two continuous"):
        integrate(vae, x)
    with pytest.raises(ValueError, match="expected continuous ones"):
        annealed_bound(vae, x)
    with pytest.raises(ValueError, match="expected a categorical prior"):
        sum_states(linear_vae(), x)


def test_the_gaps_of_a_linear_model():
    """The best diagonal q of a correlated Gaussian posterior is known."""
    vae = linear_vae()
    x, _ = images(vae, 12)
    result = gaps(vae, x, num_samples=4000)
    truth = exact_log_marginal(vae, x)
    assert torch.allclose(result.log_marginal_likelihood, truth, atol=1e-3)
    _, covariance = posterior(vae.likelihood.decoder.weight, x)
    precision = covariance.inverse().diagonal()
    best = 0.5 * (precision.log().sum() + covariance.logdet())
    excess = (result.approximation - best) / result.best_elbo_error
    assert excess.abs().max() < z_limit(len(x)) + 1  # a step short of the best
    total = result.approximation + result.amortization
    kl = posterior_kl(vae, x, truth)
    score = (total - kl) / result.elbo_error
    assert score.abs().max() < z_limit(len(x))
    assert result.amortization.mean() > 0.1  # its encoder is untrained


def test_no_gap_where_the_guide_is_exact():
    vae = linear_vae(exact=True)
    x, _ = images(vae)
    result = gaps(vae, x, num_steps=30)
    assert result.approximation.abs().max() < 0.02
    assert result.amortization.abs().max() < 0.02


def test_few_effective_samples_are_warned_of():
    vae = linear_vae()
    vae.guide.distribution.encoder.bias.data[:2] += 5
    x, _ = images(vae)
    with pytest.warns(UserWarning, match="effective sample size under 10"):
        log_marginal_likelihood(vae, x, 100)
    with pytest.raises(ValueError, match="'ias'; expected one of importance"):
        log_marginal_likelihood(vae, x, method="ias")


def test_the_aggregate_posterior():
    """With the exact posterior and the model's data it is the prior."""
    vae = linear_vae(exact=True)
    x, _ = images(vae, 20_000)
    result = check_aggregate(vae, x)
    assert result.active.tolist() == [True, True]
    assert abs(result.mmd) < Z_LIMIT * result.mmd_error + 1e-4
    assert torch.allclose(result.scale, torch.ones(2), atol=0.03)
    loc, covariance = posterior(
        vae.likelihood.decoder.weight, x - vae.likelihood.decoder.bias
    )
    variance = covariance.diagonal()
    kl = 0.5 * (variance + loc.square() - 1 - variance.log()).mean(0)
    assert torch.allclose(result.kl, kl, atol=0.03)
    off = linear_vae(exact=True)
    off.guide.distribution.encoder.weight.data[:2] *= 0
    result = check_aggregate(off, x)
    assert not result.active.any()
    assert result.mmd > Z_LIMIT * result.mmd_error


def best_log_likelihood(x, latent_dim):
    """The maximum over probabilistic PCA's parameters, per image."""
    covariance = torch.cov(x.T, correction=0)
    values = torch.linalg.eigvalsh(covariance).flip(0)
    noise = values[latent_dim:].mean()  # what the axes leave over
    log_det = values[:latent_dim].log().sum()
    log_det = log_det + (D - latent_dim) * noise.log()
    return -0.5 * (D * math.log(2 * math.pi) + log_det + D)


def test_a_fit_reaches_the_maximum_likelihood_of_probabilistic_pca():
    """Tipping and Bishop, 1999: within 0.05 nats per image.

    The likelihood does not know a rotation of the axes from another, but the
    bound of a diagonal guide is tight only where the posterior is diagonal:
    for orthogonal axes, to which the fit turns the decoder.
    """
    x, _ = images(linear_vae(), 500)
    best = best_log_likelihood(x, 2)
    decoder, encoder = Linear(), nn.Linear(D, 4)
    vae = VAE(
        NormalPrior(2),
        GaussianLikelihood(decoder, "shared", 1.0),
        NormalGuide(encoder),
    )
    assert vae.compute_elbo(x, 100).mean() < best - 1
    objective = make_objective(vae, "analytic-kl", num_particles=4)
    for rate, steps in ((0.02, 1000), (0.002, 500)):
        optim = pyro.optim.Adam({"lr": rate})
        svi = SVI(vae.model, vae.guide, optim, objective)
        for _ in range(steps):
            svi.step(x)
    with torch.no_grad():
        elbo = vae.compute_elbo(x, 2000).mean()
    assert best - 0.05 < elbo < best + 0.01
    exact = integrate(vae, x).log_marginal_likelihood.mean()
    assert best - 0.05 < exact < best + 1e-3
    first, second = decoder.weight.T.detach()
    cosine = first @ second / first.norm() / second.norm()
    assert abs(cosine) < 0.1
