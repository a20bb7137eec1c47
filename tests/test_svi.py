"""Pyro's own SVI, made to refuse losses that are not finite."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_vae.objectives import make_objective
from pyro_vae.svi import (
    NonFiniteLossError,
    load_optimizer_state,
    make_svi,
    optimizer_state,
)


def run(vae, svi, x, steps=5):
    torch.manual_seed(1)
    return [svi.step(x) for _ in range(steps)]


def test_it_is_pyros_svi_step_for_step(small_vae):
    twin, x = copy.deepcopy(small_vae), torch.rand(8, 64)
    losses = run(
        small_vae,
        make_svi(
            small_vae.model,
            small_vae.guide,
            Adam({"lr": 1e-2}),
            make_objective(small_vae),
        ),
        x,
    )
    pyros = SVI(twin.model, twin.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    assert losses == run(twin, pyros, x)
    for left, right in zip(
        small_vae.parameters(), twin.parameters(), strict=True
    ):
        assert torch.equal(left, right)


def test_particles_are_reached(small_vae):
    x = torch.rand(2, 64)
    losses = {}
    for num_particles in (1, 64):
        objective = make_objective(small_vae, num_particles=num_particles)
        losses[num_particles] = torch.tensor(
            [
                objective.loss(small_vae.model, small_vae.guide, x)
                for _ in range(50)
            ]
        )
    assert losses[64].std() < 0.4 * losses[1].std()


def test_a_bad_loss_names_the_site_and_touches_nothing(small_vae):
    svi = make_svi(
        small_vae.model, small_vae.guide, Adam({"lr": 1.0}), Trace_ELBO()
    )
    before = [p.clone() for p in small_vae.parameters()]
    x = torch.rand(8, 64)
    x[3, 5] = math.inf
    with (
        pyro.validation_enabled(False),
        pytest.warns(UserWarning, match="NaN"),
        pytest.raises(NonFiniteLossError, match="at site 'z' of the guide"),
    ):
        svi.step(x)
    for now, then in zip(small_vae.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_a_bad_step_leaves_nothing_behind_for_the_next(small_vae):
    svi = make_svi(
        small_vae.model, small_vae.guide, Adam({"lr": 1e-2}), Trace_ELBO()
    )
    x = torch.rand(8, 64)
    bad = x.clone()
    bad[0, 0] = math.inf
    with (
        pyro.validation_enabled(False),
        pytest.warns(UserWarning, match="NaN"),
        pytest.raises(NonFiniteLossError),
    ):
        svi.step(bad)
    svi.step(x)
    assert all(p.isfinite().all() for p in small_vae.parameters())


def test_a_bad_observation_is_told_from_a_bad_parameter(small_vae):
    small_vae.likelihood.log_scale.data.fill_(math.inf)
    svi = make_svi(
        small_vae.model, small_vae.guide, Adam({"lr": 1.0}), Trace_ELBO()
    )
    with (
        pyro.validation_enabled(False),
        pytest.raises(NonFiniteLossError, match=r"log_scale' is not finite"),
    ):
        svi.step(torch.rand(8, 64))

    def model():
        scale = pyro.param("scale", torch.tensor(1e-300))
        pyro.sample("y", dist.Normal(0.0, scale), obs=torch.tensor(1.0))

    svi = make_svi(model, lambda: None, Adam({"lr": 1.0}), Trace_ELBO())
    with pytest.raises(NonFiniteLossError, match="at site 'y' of the model"):
        svi.step()


def test_the_optimizers_state_survives_a_change_of_process(small_vae):
    """The second optimizer stands for one made after a restart."""
    x = torch.rand(8, 64)
    names = list(small_vae.named_parameters())
    optim = Adam({"lr": 1e-2})
    svi = make_svi(small_vae.model, small_vae.guide, optim, Trace_ELBO())
    assert optimizer_state(optim, names) == {}
    run(small_vae, svi, x)
    state = {k: v.clone() for k, v in optimizer_state(optim, names).items()}
    assert state["model.likelihood.log_scale.step"] == 5
    weights = [p.detach().clone() for p in small_vae.parameters()]
    expected = run(small_vae, svi, x)

    with torch.no_grad():
        for parameter, old in zip(small_vae.parameters(), weights, strict=True):
            parameter.copy_(old)
    optim = Adam({"lr": 1e-2})
    load_optimizer_state(optim, names, state)
    for parameter, old in zip(small_vae.parameters(), weights, strict=True):
        assert torch.equal(parameter, old)
    svi = make_svi(small_vae.model, small_vae.guide, optim, Trace_ELBO())
    assert run(small_vae, svi, x) == expected
