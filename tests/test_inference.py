"""E-steps, against the linear model whose best q is known."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from pyro_vae import VAE, CompiledSVI, Config, build, fit
from pyro_vae.inference import (
    EStep,
    ImageParameters,
    LocalInference,
    SemiAmortized,
)
from pyro_vae.objectives import make_objective
from pyro_vae.runs.history import HISTORY, read_history
from tests.models import (
    draw_images,
    exact_posterior,
    fit_until,
    linear_vae,
    without_timing,
)

CONFIG = Config(
    hidden=(16,), dataset="digits", epochs=2, batch_size=100, device="cpu"
)


def make(config):
    torch.manual_seed(config.seed)
    return build(config, data_dim=64)


def best_normal(vae, x):
    """Of diagonal normals: the posterior's mean, its precisions' inverse."""
    loc, covariance = exact_posterior(vae, x)
    return loc, covariance.inverse().diagonal().rsqrt()


def test_e_steps_find_each_images_best_q():
    vae = linear_vae()
    x = draw_images(vae, 10)
    loc, scale = best_normal(vae, x)
    own = ImageParameters.start(torch.zeros(len(x), 4))
    for rate in (0.1, 0.01, 0.001):
        step = EStep(num_particles=64, learning_rate=rate)
        start = ImageParameters.start(own.parameters)
        own, _ = step.run(vae, x, start, 200)
    q = vae.guide.family(own.parameters).base_dist
    assert (q.loc - loc).abs().max() < 0.05 * loc.abs().max()
    assert (q.scale / scale - 1).abs().max() < 0.1
    assert all(p.grad is None for p in vae.parameters())


def test_until_converged():
    vae = linear_vae()
    x = draw_images(vae, 10)
    step = EStep(num_particles=16)
    start = ImageParameters.start(torch.zeros(len(x), 4))
    end, first = step.run(vae, x, start, math.inf)
    assert 40 <= end.count.max() < 1000 and first.shape == (10, 4)
    family = vae.guide.family
    elbo = [
        vae.compute_elbo(x, 500, family(images.parameters)).mean()
        for images in (start, end)
    ]
    assert elbo[1] > elbo[0] + 1


def test_compiled_e_steps_are_the_same():
    vae = linear_vae()
    x = draw_images(vae, 10)
    results = []
    for sizes in ((), (10,)):
        step = EStep()
        step.compile_for(sizes)
        start = ImageParameters.start(torch.zeros(len(x), 4))
        torch.manual_seed(3)
        results.append(step.run(vae, x, start, 7))
        assert bool(step._programs) == bool(sizes)
    (left, first), (right, again) = results
    for a, b in zip(
        [*left.tensors(), first], [*right.tensors(), again], strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_step_on_theta_leaves_the_encoder_or_lets_it_follow():
    for engine in (SVI, CompiledSVI):
        for follow in (False, True):
            vae = build(Config(hidden=()), 20)
            x, parameters = torch.rand(5, 20), torch.randn(5, 4)
            encoder_gradient = (torch.randn(5, 4),) if follow else ()
            before = {k: v.clone() for k, v in vae.state_dict().items()}
            svi = engine(
                vae.model,
                vae.guide,
                pyro.optim.Adam({"lr": 1e-3}),
                make_objective(vae),
            )
            svi.step(x, 50, parameters, *encoder_gradient)
            moved = {
                k: not torch.equal(v, before[k])
                for k, v in vae.state_dict().items()
            }
            of_model = [m for k, m in moved.items() if k.startswith("model")]
            of_guide = [m for k, m in moved.items() if k.startswith("guide")]
            assert all(of_model) and all(m == follow for m in of_guide)


def test_the_encoder_follows_its_own_elbos_gradient():
    """With no refinement, the semi-amortized gradient is the amortized one."""
    vae = build(Config(hidden=(8,), noise="fixed"), 20)
    x = torch.rand(5, 20)
    objective = make_objective(vae)
    torch.manual_seed(1)
    objective.loss_and_grads(vae.model, vae.guide, x)
    encoder = vae.guide.encoder
    expected = [p.grad.clone() for p in encoder.parameters()]
    torch.manual_seed(1)
    parameters = encoder(x).detach().requires_grad_()
    q = vae.guide.family(parameters)
    elbo = vae.compute_elbo(x, 1, q).sum()
    (gradient,) = torch.autograd.grad(elbo, parameters)
    vae.zero_grad()
    objective.loss_and_grads(
        vae.model, vae.guide, x, None, parameters.detach(), gradient
    )
    for p, gradient in zip(encoder.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-12)


@pytest.mark.parametrize("name", ["local", "semi-amortized"])
def test_a_fit_learns_and_resumes_exactly(digits, tmp_path, name):
    config = replace(CONFIG, inference=name, e_steps=3)
    vae = make(config)
    whole = without_timing(fit(vae, digits, config, tmp_path / "whole"))
    assert whole[-1]["test_elbo"] > whole[0]["test_elbo"] + 1
    fit_until(20, make(config), digits, config, tmp_path / "part")
    other = make(config)
    list(fit(other, digits, config, tmp_path / "part", resume=True))
    assert without_timing(read_history(tmp_path / "part" / HISTORY)) == whole
    for left, right in zip(vae.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_fit_whose_e_steps_run_until_they_have_converged(digits):
    config = replace(CONFIG, inference="local", e_steps="inf", epochs=1)
    vae = make(config)
    records = list(fit(vae, digits.first(150), config))
    assert records[1]["test_elbo"] > records[0]["test_elbo"]
    counts = vae.inference.tensors()["count"]
    assert counts.min() >= 40 and (counts % 20 == 0).all()


def test_local_inference_keeps_a_lambda_for_each_image(digits):
    config = replace(CONFIG, inference="local", epochs=1)
    vae = make(config)
    before = [p.clone() for p in vae.guide.parameters()]
    list(fit(vae, digits, config))
    assert isinstance(vae.inference, LocalInference)
    own = vae.inference.tensors()
    parameters = own["features"]  # as files of all versions name them
    assert parameters.shape == (len(digits.train), 4)
    assert (own["count"] == 1).all()  # one E-step on each, in one epoch
    assert parameters.abs().sum(1).min() > 0
    after = list(vae.guide.parameters())
    assert all(map(torch.equal, before, after))  # no encoder is trained


def test_held_out_images_get_their_own_e_step():
    for kind in (LocalInference, SemiAmortized):
        vae = linear_vae()
        vae.inference = kind(EStep(), 100)
        x = draw_images(vae, 200)
        loc, _ = best_normal(vae, x)
        error = (vae.infer(x).mean - loc).abs().mean()
        amortized = (vae.guide.infer(x).mean - loc).abs().mean()
        assert error < 0.3 * amortized


@pytest.mark.slow
def test_the_engines_agree(digits):
    config = replace(CONFIG, inference="semi-amortized", e_steps=2, epochs=1)
    histories = [
        without_timing(fit(make(c), digits, c))
        for c in (config, replace(config, engine="compiled"))
    ]
    for left, right in zip(*histories, strict=True):
        assert left == pytest.approx(right, rel=1e-7)


def test_what_it_cannot_take_is_refused():
    with pytest.raises(ValueError, match="'global'; expected one of amort"):
        Config(inference="global")
    with pytest.raises(ValueError, match="Identity; expected an AmortizedGui"):
        vae = linear_vae()
        pair = VAE(vae.prior, vae.likelihood, nn.Identity())
        start = ImageParameters.start(torch.zeros(1, 4))
        EStep().run(pair, torch.zeros(1, 6), start, 1)
    with pytest.raises(ValueError, match="inference is 'local'; expected"):
        Config(inference="local", prior="laplace", gradient="score-function")
    with pytest.raises(ValueError, match="e_steps is 0; expected inf or"):
        Config(e_steps=0)
    with pytest.raises(ValueError, match="'iwae'; expected elbo with inf"):
        Config(inference="local", objective="iwae")
    for choices in ({"beta": 0.5}, {"warmup": 2}, {"free_bits": 0.1}):
        (name,) = choices
        with pytest.raises(ValueError, match=f"{name} is .*with inference="):
            Config(inference="semi-amortized", **choices)
    assert Config(inference="local", e_steps="inf").e_steps == "inf"
    config = Config(inference="semi-amortized", hidden=(4,))
    vae = build(config, 9)
    assert isinstance(vae.inference, SemiAmortized)
