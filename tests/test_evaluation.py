"""Against probabilistic PCA, where every answer has a closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from pyro_vae import VAE, Config, GaussianLikelihood, build, save_vae
from pyro_vae.cli import evaluate, fit
from pyro_vae.cli.flags import CommandLine
from pyro_vae.evaluation import (
    METHODS,
    Effort,
    LogMarginal,
    aggregate,
    annealed_bound,
    check_aggregate,
    default_method,
    elbo,
    estimate_elbo,
    importance,
    importance_bound,
    integrate,
    list_methods,
    log_marginal,
    log_marginal_likelihood,
    log_weights,
    mean_elbo_terms,
    posterior_density,
    posterior_kl,
    split_gap,
    sum_states,
    sum_terms,
)
from pyro_vae.evaluation.grid import log_joint
from pyro_vae.objectives import make_objective
from pyro_vae.runs.files import FileError
from pyro_vae.svi import Shards
from tests.models import (
    NOISE,
    draw_images,
    exact_posterior,
    keep_the_record,
    linear_vae,
)
from tests.statistics import Z_LIMIT, assert_mean, z_limit


class Unknown(nn.Module):
    """A likelihood of a user's own, with nothing but a distribution."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, z):
        return self.base(z)


def exact_vae(latent_dim=2, noise=NOISE):
    """Returns probabilistic PCA with principal axes, and the best encoder."""
    vae = linear_vae(latent_dim)
    decoder, encoder = vae.likelihood.decoder, vae.guide.encoder
    axes, _ = torch.linalg.qr(decoder.weight.data)
    decoder.weight.data = axes * torch.arange(1.0, latent_dim + 1)
    variance = 1 / (1 + decoder.weight.data.square().sum(0) / noise**2)
    gain = variance.unsqueeze(1) * decoder.weight.data.T / noise**2
    encoder.weight.data[:latent_dim] = gain
    encoder.bias.data[:latent_dim] = -gain @ decoder.bias.data
    encoder.weight.data[latent_dim:] = 0
    scale = variance.sqrt() - vae.guide.distribution.min_scale
    encoder.bias.data[latent_dim:] = scale.expm1().log()
    likelihood = GaussianLikelihood(decoder, "fixed", noise)
    return VAE(vae.prior, likelihood, vae.guide.distribution)


def exact_log_marginal(vae, x, noise=NOISE):
    weight, bias = vae.likelihood.decoder.weight, vae.likelihood.decoder.bias
    covariance = weight @ weight.T + noise**2 * torch.eye(len(bias))
    return dist.MultivariateNormal(bias, covariance).log_prob(x).detach()


def make_discrete():
    config = Config(prior="categorical", hidden=(8,), num_variables=2)
    return build(config, data_dim=6)


def error_in_units(result, truth):
    """Returns each image's error in units of its standard error."""
    return (result.value - truth) / result.error


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_is_exact(latent_dim):
    vae = linear_vae(latent_dim)
    x = draw_images(vae, 20)
    x[0] += 20  # far out, where neither prior nor guide have put a cell
    result = integrate(vae, x)
    truth = exact_log_marginal(vae, x)
    assert (result.value - truth).abs().max() < 1e-3
    assert result.error.max() <= 1e-3


def test_the_quadrature_of_narrow_peaks_beside_one_far_out():
    """A larger domain for one image must not hide the others' peaks."""
    vae = exact_vae(noise=0.01)
    x = draw_images(vae, 6)
    with torch.no_grad():
        x[0] = vae.generate(torch.tensor([[300.0, -200.0]]))
    result = integrate(vae, x, 1e-2)
    truth = exact_log_marginal(vae, x, 0.01)
    assert (result.value - truth).abs().max() < 1e-2
    assert result.error.max() <= 1e-2


def test_processes_share_the_batches_of_an_evaluation(monkeypatch):
    class One(Shards):
        """One of two processes, which sees its own sums alone."""

        def __init__(self, rank):
            super().__init__()
            self.rank, self.world_size, self.seen = rank, 2, []

        def gather(self, value):
            return [value]

        def sum_terms(self, x):
            self.seen.append(x)
            return sum_terms(vae, x)

    monkeypatch.setattr(elbo, "EVALUATION_BATCH", 4)
    vae = linear_vae()
    x = draw_images(vae, 10)
    whole = mean_elbo_terms(vae, x)
    shards = [One(0), One(1)]
    parts = [
        mean_elbo_terms(vae, x, compute_sums=one.sum_terms, shards=one)
        for one in shards
    ]
    for term, *both in zip(whole, *parts, strict=True):
        assert term == pytest.approx(sum(both), rel=1e-12)
    assert [[len(b) for b in one.seen] for one in shards] == [[4, 2], [4]]
    assert torch.equal(torch.cat([shards[0].seen[0], *shards[1].seen]), x[:8])


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan, math.inf])
def test_a_tolerance_is_a_positive_number(tmp_path, tolerance):
    said = f"tolerance is {tolerance}; expected a positive, finite number"
    with pytest.raises(ValueError, match=said):
        integrate(linear_vae(1), torch.zeros(1, 6), tolerance)
    words = [str(tmp_path), "--tolerance", str(tolerance)]
    command = CommandLine(evaluate.Flags, None, words, "pyro-vae evaluate")
    with pytest.raises(ValueError, match=said):  # before the folder is read
        evaluate.main(command)


def test_the_domain_follows_a_small_tolerance():
    torch.manual_seed(0)
    vae = build(Config(latent_dim=1, hidden=(8,)), 9)
    x, step = torch.rand(4, 9), 6e-5
    z = torch.arange(-12, 12, step).unsqueeze(-1)
    with torch.no_grad():
        truth = log_joint(vae, z, x).logsumexp(0) + math.log(step)
    found = integrate(vae, x, 1e-8)
    assert ((found.value - truth).abs() <= found.error + 1e-10).all()


def test_a_method_takes_the_tolerance_that_is_asked_for():
    vae, x = linear_vae(), draw_images(linear_vae(), 5)
    truth = exact_log_marginal(vae, x)
    errors = []
    for tolerance in (1e-6, 0.5):
        found = log_marginal_likelihood(
            vae, x, method="quadrature", tolerance=tolerance
        )
        assert found.error.max() <= tolerance
        assert ((found.value - truth).abs() <= tolerance).all()
        errors.append(found.error.max())
    assert errors[1] > 1e-6  # less work was done


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
    error = (result.value - truth).abs()
    assert (error <= result.error + 1e-5).all() and error.max() <= 1e-3


def test_quadrature_in_float32_is_as_good():
    vae = linear_vae()
    x = draw_images(vae, 10)
    truth = exact_log_marginal(vae, x)
    result = integrate(vae.float(), x.float())
    assert (result.value - truth).abs().max() < 1e-3


def test_a_likelihood_without_matrix_products_is_integrated_too():
    vae = linear_vae(1)
    x = draw_images(vae, 3)
    plain = VAE(vae.prior, Unknown(vae.likelihood), vae.guide.distribution)
    left, right = (integrate(v, x) for v in (vae, plain))
    assert torch.allclose(left.value, right.value)


def test_the_posterior_on_a_grid():
    vae = linear_vae()
    x = draw_images(vae, 1)
    loc, covariance = exact_posterior(vae, x)
    reach = 8 * covariance.diagonal().sqrt()
    z, density = posterior_density(vae, x, loc[0] - reach, loc[0] + reach)
    truth = dist.MultivariateNormal(loc[0], covariance).log_prob(z).exp()
    assert (density - truth).abs().max() < 1e-6 * truth.max()


def test_the_importance_bound_agrees_and_says_how_well():
    vae = linear_vae()
    x = draw_images(vae, 20)
    truth = exact_log_marginal(vae, x)
    result = importance_bound(vae, x, 20_000)
    assert error_in_units(result, truth).abs().max() < z_limit(len(x))
    assert (result.value - truth).abs().max() > 0
    assert (result.effective_sample_size < 20_000).all()


def test_the_exact_guide_has_weights_of_no_variance():
    vae = exact_vae()
    x = draw_images(vae, 20)
    result = importance_bound(vae, x, 100)
    assert torch.allclose(result.value, exact_log_marginal(vae, x))
    full = torch.full((len(x),), 100.0)
    assert torch.allclose(result.effective_sample_size, full)
    assert result.error.max() < 1e-5


def test_the_bound_rises_with_the_samples():
    vae = linear_vae()
    x = draw_images(vae, 10)
    weights = log_weights(vae, x, 10_000).detach()
    bounds = [
        weights.view(-1, k, 10).logsumexp(1).sub(math.log(k)).mean()
        for k in (1, 10, 100)
    ]
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[2] < exact_log_marginal(vae, x).mean() + 1e-9
    assert_mean(weights.mean(1), vae.compute_elbo(x, 10_000).mean())


def test_the_elbo_of_each_image():
    vae = linear_vae()
    x = draw_images(vae, 10)
    q, weight = vae.infer(x), vae.likelihood.decoder.weight
    p_x = dist.Normal(vae.generate(q.mean), NOISE).to_event(1)
    spread = (q.variance * weight.square().sum(0)).sum(-1) / NOISE**2
    truth = p_x.log_prob(x) - spread / 2
    truth = (truth - dist.kl.kl_divergence(q, vae.prior())).detach()
    for chosen in (None, q):
        result = estimate_elbo(vae, x, 4000, chosen)
        # The error is of twenty blocks: Student's t of 19 degrees of freedom.
        assert error_in_units(result, truth).abs().max() < 8
        assert result.error.max() < 2


def test_chunks_do_not_change_the_estimate(monkeypatch):
    vae = exact_vae()
    vae.guide.encoder.bias.data += 0.1
    x = draw_images(vae, 47)
    recorded = []

    def spy(function, inputs, **options):
        recorded.append(len(inputs[0]))
        return compile_graph(function, inputs, **options)

    compile_graph = importance.compile_graph
    monkeypatch.setattr(importance, "compile_graph", spy)
    keep_the_record(monkeypatch)
    monkeypatch.setattr(importance, "COMPILE_FROM", 1000)
    compiled = importance_bound(vae, x, 1234)
    assert recorded == [40]
    truth = exact_log_marginal(vae, x)
    assert error_in_units(compiled, truth).abs().max() < z_limit(len(x))
    monkeypatch.setattr(importance, "COMPILE_FROM", math.inf)
    eager = importance_bound(vae, x, 1234)
    assert torch.allclose(compiled.value, eager.value)
    assert recorded == [40]


def test_annealing_agrees_from_both_sides():
    vae = linear_vae()
    z = vae.prior().sample((15,))
    x = vae.likelihood(z).sample().detach()
    truth = exact_log_marginal(vae, x)
    result = annealed_bound(vae, x, 32, 40, z=z)
    assert error_in_units(result, truth).abs().max() < z_limit(len(x))
    assert 0.4 < result.acceptance.mean() < 0.95
    gap = result.upper_bound - result.value
    assert gap.mean().abs() < Z_LIMIT * gap.std() / len(gap) ** 0.5
    assert gap.mean().abs() < 0.5
    # The mean of each is on its own side, up to its error.
    error = result.error.square().mean().sqrt() / len(x) ** 0.5
    assert (result.upper_bound - truth).mean() > -Z_LIMIT * error


def test_discrete_latents_are_summed_out():
    vae = make_discrete()
    x = torch.rand(5, 6)
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
    assert torch.allclose(total.value, torch.stack(brute).detach())
    assert (total.error == 0).all()
    assert (total.value >= vae.compute_elbo(x)).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_agrees_with_the_exact_one(name, monkeypatch):
    monkeypatch.setattr(log_marginal, "TEMPERATURES", 40)
    takes, truth = METHODS[name].takes, None
    continuous = exact_vae(1)
    continuous.guide.encoder.bias.data += 0.1
    for vae in (continuous, make_discrete()):
        x = draw_images(vae, 4)
        if not takes.include(vae.prior()):
            continue
        truth = log_marginal_likelihood(vae, x, method=default_method(vae))
        result = log_marginal_likelihood(vae, x, 40 * 32, name)
        assert result.value.dtype == result.error.dtype == torch.float64
        # Quadrature is exact to its own error.
        error = (result.value - truth.value).abs() - truth.error
        assert (error <= z_limit(len(x)) * result.error).all()
        if name in ("importance", "ais"):
            assert (result.error > 0).all() and (error > 0).any()
        has_size = result.effective_sample_size is not None
        assert has_size is (name == "importance")
    assert truth is not None  # it was run


def test_the_samples_of_ais_are_chains_times_temperatures(monkeypatch):
    asked = []

    def spy(vae, x, num_chains, num_temperatures, seed):
        asked.append((num_chains, num_temperatures, seed))

    monkeypatch.setattr(log_marginal, "annealed_bound", spy)
    METHODS["ais"].estimate(
        linear_vae(), torch.zeros(1, 6), Effort(5000, 3, 1e-3)
    )
    assert asked == [(25, 200, 3)]


def test_the_table_of_methods_refuses_and_chooses():
    vaes = {
        "quadrature": linear_vae(),
        "importance": linear_vae(3),
        "exact": make_discrete(),
    }
    for best, vae in vaes.items():
        assert default_method(vae) == best
        taken = list_methods(vae)
        for name, row in METHODS.items():
            if name not in taken:
                message = f"expected {row.takes.words} for method {name}: use "
                message += f"method {' or '.join(taken)}"
                with pytest.raises(ValueError, match=message):
                    log_marginal_likelihood(vae, torch.zeros(1, 6), 9, name)
    assert list_methods(vaes["importance"]) == ["importance", "ais"]
    assert list_methods(vaes["exact"]) == ["exact", "importance"]
    with pytest.raises(ValueError, match="'ias'; expected one of exact, quad"):
        log_marginal_likelihood(linear_vae(), torch.zeros(1, 6), method="ias")


def test_functions_refuse_latents_without_the_table_too():
    discrete, x = make_discrete(), torch.zeros(1, 6)
    few = "4 latent dimensions, discrete; expected one or two continuous ones"
    for refuse in (
        lambda: integrate(discrete, x),
        lambda: posterior_density(discrete, x, x[0], x[0]),
        lambda: posterior_kl(discrete, x, x[0]),
    ):
        with pytest.raises(ValueError, match=few.replace("4 ", r"\d+ ")):
            refuse()
    with pytest.raises(ValueError, match="expected continuous ones"):
        annealed_bound(discrete, x)
    with pytest.raises(ValueError, match="1 latent dimension, continuous; exp"):
        sum_states(linear_vae(1), x)


def test_too_many_configurations_are_not_summed():
    config = Config(
        prior="categorical",
        gradient="gumbel-softmax",
        hidden=(2,),
        num_variables=11,
        num_components=2,
    )
    vae = build(config, data_dim=4)
    assert vae.num_states == 2048 and default_method(vae) == "importance"
    with pytest.raises(ValueError, match="at most 1024 configurations"):
        sum_states(vae, torch.zeros(1, 4))


def test_the_gaps_of_a_linear_model():
    """The best diagonal q of a correlated Gaussian posterior is known."""
    vae = linear_vae()
    x = draw_images(vae, 8)
    result = split_gap(vae, x, num_steps=150, num_samples=4000)
    truth = exact_log_marginal(vae, x)
    assert torch.allclose(result.log_marginal_likelihood, truth, atol=1e-3)
    _, covariance = exact_posterior(vae, x)
    precision = covariance.inverse().diagonal()
    best = 0.5 * (precision.log().sum() + covariance.logdet())
    excess = (result.approximation - best) / result.best_elbo_error
    assert excess.abs().max() < z_limit(len(x)) + 1  # a step short of the best
    q = vae.guide.family(result.parameters)
    assert torch.allclose(q.variance, 1 / precision, rtol=0.3)
    total = result.approximation + result.amortization
    kl = posterior_kl(vae, x, truth)
    score = (total - kl) / result.elbo_error
    assert score.abs().max() < z_limit(len(x))
    assert result.amortization.mean() > 0.1  # its encoder is untrained


def test_no_gap_where_the_guide_is_exact():
    vae = exact_vae(1)
    result = split_gap(vae, draw_images(vae, 10), num_steps=30)
    assert result.approximation.abs().max() < 0.02
    assert result.amortization.abs().max() < 0.02


def test_the_gap_is_split_by_the_chosen_method():
    vae = linear_vae(3)
    vae.likelihood.decoder.weight.data *= 0.1  # the posterior is near the prior
    x = draw_images(vae, 3)
    few = {"num_steps": 3, "num_samples": 20}
    usual = split_gap(vae, x, **few).log_marginal_likelihood
    found = log_marginal_likelihood(vae, x, method="importance")
    assert torch.equal(usual, found.value)
    with pytest.raises(ValueError, match="for method quadrature"):
        split_gap(vae, x, "quadrature", **few)


def test_few_effective_samples_are_warned_of():
    vae = linear_vae()
    vae.guide.encoder.bias.data[:2] += 5
    x = draw_images(vae, 20)
    words = "size under 10 of 100: .* or method quadrature or ais"
    with pytest.warns(UserWarning, match=words):
        log_marginal_likelihood(vae, x, 100)


def test_the_aggregate_posterior(monkeypatch):
    """With the exact posterior and the model's data it is the prior."""
    monkeypatch.setattr(aggregate, "PAIRS", 500)
    vae = exact_vae()
    x = draw_images(vae, 20_000)
    result = check_aggregate(vae, x)
    assert result.active.tolist() == [True, True]
    assert abs(result.mmd) < Z_LIMIT * result.mmd_error + 1e-4
    assert torch.allclose(result.scale, torch.ones(2), atol=0.03)
    loc, covariance = exact_posterior(vae, x)
    variance = covariance.diagonal()
    kl = 0.5 * (variance + loc.square() - 1 - variance.log()).mean(0)
    assert torch.allclose(result.kl, kl, atol=0.03)
    vae.guide.encoder.weight.data[:2] *= 0
    result = check_aggregate(vae, x)
    assert not result.active.any()
    assert result.mmd > Z_LIMIT * result.mmd_error


def test_results_of_minibatches_are_joined():
    one, two = torch.rand(3), torch.rand(2)
    whole = LogMarginal.join([LogMarginal(t, 2 * t, 3 * t) for t in (one, two)])
    assert torch.equal(whole.value, torch.cat([one, two]))
    assert torch.equal(whole.error, 2 * whole.value)
    assert torch.equal(whole.effective_sample_size, 3 * whole.value)
    plain = LogMarginal.join([LogMarginal(t, t) for t in (one, two)])
    assert plain.effective_sample_size is None


def test_a_run_without_weights_says_how_to_make_them(tmp_path):
    config = Config(prior="laplace", hidden=(8, 4), noise_scale=0.2, epochs=3)
    vae = build(config, data_dim=6)
    save_vae(vae, tmp_path, {"data": {}})
    evaluate.check_weights(tmp_path, best=False)
    (tmp_path / "model.safetensors").unlink()
    choices = list(evaluate.list_choices(config))
    words = f"model.safetensors; .* pyro-vae fit {' '.join(choices)} --output"
    with pytest.raises(FileError, match=words):
        evaluate.check_weights(tmp_path, best=False)
    with pytest.raises(FileError, match="leave --best out"):
        evaluate.check_weights(tmp_path, best=True)
    command = CommandLine(fit.Flags, None, choices, "pyro-vae fit")
    assert command.parse().config() == config != Config()


def test_the_command_takes_and_explains_every_method():
    words = ["run", "--methods", "elbo", *METHODS]
    command = CommandLine(evaluate.Flags, None, words, "pyro-vae evaluate")
    assert command.parse().methods == ("elbo", *METHODS)
    for name, row in METHODS.items():
        assert f"{name}, {row.about}" in evaluate.Flags.__doc__


def best_log_likelihood(x, latent_dim):
    """Returns the maximum over probabilistic PCA's parameters, per image."""
    data_dim = x.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[latent_dim:].mean()  # what the axes leave over
    log_det = values[:latent_dim].log().sum()
    log_det = log_det + (data_dim - latent_dim) * noise.log()
    return -0.5 * (data_dim * math.log(2 * math.pi) + log_det + data_dim)


def test_a_fit_reaches_the_maximum_likelihood_of_probabilistic_pca():
    """Tipping and Bishop, 1999: within 0.05 nats per image.

    The likelihood does not know a rotation of the axes from another, but the
    bound of a diagonal guide is tight only where the posterior is diagonal:
    for orthogonal axes, to which the fit turns the decoder.
    """
    x = draw_images(linear_vae(), 500)
    best = best_log_likelihood(x, 2)
    start = linear_vae()
    decoder = start.likelihood.decoder
    likelihood = GaussianLikelihood(decoder, "shared", 1.0)
    vae = VAE(start.prior, likelihood, start.guide.distribution)
    assert vae.compute_elbo(x, 100).mean() < best - 1
    objective = make_objective(vae, "analytic-kl", num_particles=4)
    for rate, steps in ((0.05, 400), (0.005, 200)):
        optim = pyro.optim.Adam({"lr": rate})
        svi = SVI(vae.model, vae.guide, optim, objective)
        for _ in range(steps):
            svi.step(x)
    with torch.no_grad():
        elbo = vae.compute_elbo(x, 2000).mean()
    assert best - 0.05 < elbo < best + 0.01
    truth = exact_log_marginal(vae, x, vae.likelihood.scale).mean()
    assert best - 0.05 < truth < best + 1e-3
    first, second = decoder.weight.T.detach()
    cosine = first @ second / first.norm() / second.norm()
    assert abs(cosine) < 0.1
