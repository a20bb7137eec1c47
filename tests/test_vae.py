import copy
import gc
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch.distributions import kl_divergence

from pyro_vae import (
    MLP,
    VAE,
    Config,
    GaussianLikelihood,
    LaplaceGuide,
    LaplacePrior,
    NormalGuide,
    NormalPrior,
    build,
    load_vae,
    save_vae,
)
from pyro_vae.runs.files import FileError
from tests.statistics import assert_mean, z_limit

PAIRS = [
    (prior, guide)
    for prior in ("normal", "laplace")
    for guide in ("normal", "laplace")
]


def make(prior="normal", guide="normal", **choices):
    config = Config(prior=prior, guide=guide, hidden=(16,), **choices)
    return build(config, data_dim=64)


def snapshot(vae):
    return [p.detach().clone() for p in vae.parameters()]


def moved(vae, before):
    return [
        not torch.equal(p, old)
        for p, old in zip(vae.parameters(), before, strict=True)
    ]


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
def test_pyros_svi_trains_every_parameter(prior, guide):
    vae = make(prior, guide)
    before = snapshot(vae)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    svi.step(torch.rand(8, 64))
    assert all(moved(vae, before)) and len(before) == 9


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
def test_the_elbo_module_sees_every_parameter(prior, guide):
    vae = make(prior, guide)
    elbo = Trace_ELBO()(vae.model, vae.guide)
    assert set(elbo.parameters()) == set(vae.parameters())
    elbo(torch.rand(8, 64)).backward()
    assert all(p.grad is not None for p in vae.parameters())


def test_two_vaes_in_one_process_share_nothing():
    x = torch.rand(8, 64)
    first, second = make(), make()
    third = copy.deepcopy(second)
    for vae in (first, second, third):
        others = [v for v in (first, second, third) if v is not vae]
        unmoved = [snapshot(other) for other in others]
        before = snapshot(vae)
        optim = Adam({"lr": 1e-3})
        SVI(vae.model, vae.guide, optim, Trace_ELBO()).step(x)
        assert all(moved(vae, before))
        for other, old in zip(others, unmoved, strict=True):
            assert not any(moved(other, old))


def test_clearing_the_param_store_loses_nothing():
    vae = make()
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    svi.step(torch.rand(8, 64))
    pyro.clear_param_store()
    before = snapshot(vae)
    svi.step(torch.rand(8, 64))
    assert all(moved(vae, before))


def test_a_replaced_network_is_the_one_that_trains():
    vae = make()
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    svi.step(torch.rand(8, 64))
    vae.likelihood.decoder = MLP(2, 64, (16,), output_activation="sigmoid")
    before = snapshot(vae)
    svi.step(torch.rand(8, 64))
    assert all(moved(vae, before))


def test_a_frozen_parameter_stays(small_vae):
    small_vae.likelihood.log_scale.requires_grad_(False)
    before = snapshot(small_vae)
    optim = Adam({"lr": 1e-3})
    SVI(small_vae.model, small_vae.guide, optim, Trace_ELBO()).step(
        torch.rand(8, 64)
    )
    still = [
        name
        for (name, _), has_moved in zip(
            small_vae.named_parameters(), moved(small_vae, before), strict=True
        )
        if not has_moved
    ]
    assert still == ["model.likelihood.log_scale"]


def test_the_sites_and_the_plate(small_vae):
    x = torch.rand(8, 64)
    guide = poutine.trace(small_vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(small_vae.model, guide)).get_trace(x)
    assert guide.nodes["z"]["value"].shape == (8, 2)
    assert model.nodes["z"]["value"] is guide.nodes["z"]["value"]
    assert model.nodes["x"]["is_observed"]
    for site in (guide.nodes["z"], model.nodes["z"], model.nodes["x"]):
        assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]


def test_num_data_rescales_the_minibatch_to_the_data_set(small_vae):
    x = torch.rand(8, 64)
    losses = []
    for num_data in (None, 80):
        torch.manual_seed(1)
        loss = Trace_ELBO().loss(small_vae.model, small_vae.guide, x, num_data)
        losses.append(loss)
    assert math.isclose(10 * losses[0], losses[1], rel_tol=1e-12)
    with pytest.raises(ValueError, match="num_data is 7; expected the size"):
        small_vae.model(x, 7)


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
def test_compute_elbo_is_pyros_loss_image_by_image(prior, guide):
    vae = make(prior, guide)
    x = torch.rand(8, 64)
    torch.manual_seed(1)
    loss = Trace_ELBO().loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    elbo = vae.compute_elbo(x)
    assert elbo.shape == (8,)
    assert math.isclose(loss, -elbo.sum().item(), rel_tol=1e-12)


@pytest.mark.parametrize("guide", ["normal", "laplace"])
def test_the_terms_of_the_elbo(guide):
    vae = make(guide, guide)
    x = torch.rand(3, 64)
    terms = vae.compute_elbo_terms(x, num_particles=4)
    assert all(term.shape == (3,) for term in terms)
    copies = x.repeat(4000, 1)  # in one call
    draws = vae.compute_elbo_terms(copies)[1].detach().view(4000, 3)
    exact = kl_divergence(
        vae.infer(x).base_dist, vae.prior().base_dist.expand((3, 2))
    )
    assert_mean(draws, exact.sum(-1))


def test_more_particles_only_narrow_the_estimate(small_vae):
    copies = torch.rand(2, 64).repeat(500, 1)  # in one call
    with torch.no_grad():
        few, many = (
            small_vae.compute_elbo(copies, size).view(500, 2)
            for size in (1, 50)
        )
    error = (few.var(0) / 500 + many.var(0) / 500).sqrt()
    z = (few.mean(0) - many.mean(0)) / error
    assert z.abs().max() < z_limit(2)
    assert (many.std(0) < 0.3 * few.std(0)).all()


def test_infer_generate_sample_reconstruct(small_vae):
    x = torch.rand(8, 64)
    q = small_vae.infer(x)
    assert q.batch_shape == (8,) and q.event_shape == (2,)
    assert small_vae.generate(torch.randn(3, 4, 2)).shape == (3, 4, 64)
    images = small_vae.sample(7)
    assert images.shape == (7, 64) and not images.requires_grad
    assert torch.equal(small_vae.reconstruct(x), small_vae.generate(q.mean))


def test_images_that_are_not_flat_are_refused(small_vae):
    images = torch.rand(8, 1, 8, 8)
    message = r"\(8, 1, 8, 8\); expected .* use x.flatten\(1\)"
    for call in (small_vae.infer, small_vae.model, small_vae.guide):
        with pytest.raises(ValueError, match=message):
            call(images)


def test_parts_of_ones_own(tmp_path):
    class Shifted(torch.nn.Module):
        def forward(self):
            return pyro.distributions.Normal(torch.ones(2), 1.0).to_event(1)

    decoder = MLP(2, 9, output_activation="sigmoid")
    vae = VAE(Shifted(), GaussianLikelihood(decoder), NormalGuide(MLP(9, 4)))
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    assert math.isfinite(svi.step(torch.rand(5, 9)))
    with pytest.raises(ValueError, match="one made by build"):
        save_vae(vae, tmp_path)


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
@pytest.mark.parametrize("noise", ["shared", "fixed", "diagonal"])
def test_save_and_load(tmp_path, prior, guide, noise):
    scale = {"prior_scale": 0.7} if prior == "laplace" else {}
    vae = make(prior, guide, noise=noise, noise_scale=0.3, **scale)
    save_vae(vae, tmp_path, about={"data": {"name": "digits"}})
    loaded = load_vae(tmp_path)
    kinds = {"normal": NormalPrior, "laplace": LaplacePrior}
    assert isinstance(loaded.prior, kinds[prior])
    kinds = {"normal": NormalGuide, "laplace": LaplaceGuide}
    assert isinstance(loaded.guide.distribution, kinds[guide])
    x = torch.rand(8, 64)
    elbos = []
    for one in (vae, loaded):
        torch.manual_seed(1)
        elbos.append(one.compute_elbo(x))
    assert torch.equal(*elbos)


def test_files_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(FileError, match="there is no file"):
        load_vae(tmp_path)
    torch.save(make().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(FileError, match="no safetensors file"):
        load_vae(tmp_path)
    vae = make()
    vae.recipe["config"]["prior"] = "gauss"
    save_vae(vae, tmp_path)
    with pytest.raises(FileError, match="'gauss'; expected one of normal"):
        load_vae(tmp_path)


def test_a_dead_vae_leaves_the_param_store():
    vae = make()
    vae.model(torch.rand(8, 64))
    assert len(pyro.get_param_store()) == 5
    del vae
    gc.collect()
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("prior", ["normal", "laplace"])
def test_fitting_improves_the_elbo(digits, prior):
    """The untrained model fails the bar that the trained one passes."""
    vae = make(prior, noise_scale=0.5)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())

    def test_elbo():
        return vae.compute_elbo(digits.test).mean().item()

    bar = 0.0
    assert test_elbo() < bar - 20
    with pyro.validation_enabled(False):
        for _ in range(20):
            for x in digits.train[torch.randperm(1438)].split(64):
                svi.step(x, 1438)
    assert test_elbo() > bar
