"""Impossible sizes are refused before anything is made of them."""

import time
from dataclasses import replace

import pytest
import torch

from pyro_vae import Config, VAEConfig, build
from pyro_vae.config import (
    PRESETS,
    FitConfig,
    check_memory,
    check_training_memory,
    estimate_memory,
    find_short_warmup,
    make_preset,
    part_of,
    sizes,
)
from tests.models import PAIRS

HUGE = 10**9
OWNERS = {
    "num_components": {"prior": "mixture"},
    "num_variables": {"prior": "categorical"},
    "num_couplings": {"prior": "flow"},
    "coupling_units": {"guide": "flow"},
    "channels": {"network": "conv"},
}


@pytest.fixture(autouse=True)
def float32(exact_and_isolated):
    torch.set_default_dtype(torch.float32)


def small_machine(monkeypatch, size=1e9):
    monkeypatch.setattr(sizes, "find_memory", lambda: size)
    monkeypatch.setattr(sizes, "_device_memory", lambda config: 0)


@pytest.mark.parametrize(
    "name",
    [
        "latent_dim",
        "hidden",
        "num_components",
        "num_particles",
        "num_couplings",
        "coupling_units",
        "num_variables",
        "channels",
        "batch_size",
    ],
)
def test_a_billion_is_refused_at_once_and_named(name):
    value = (HUGE,) if name in ("hidden", "channels") else HUGE
    started = time.perf_counter()
    with pytest.raises(ValueError, match=f"^{name} is .*{HUGE}.*; expected "):
        build(Config(**{name: value}, **OWNERS.get(name, {})))
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"latent_dim": 100_000},
            "latent_dim is 100000, with which these choices need about 2.9 GB "
            r"of memory \(training, parameters 2.5 GB, a step 0.4 GB\), and "
            "the machine has 1.0 GB; expected a smaller latent_dim",
        ),
        (
            {"latent_dim": 100_000, "guide": "full"},
            "latent_dim is 100000, .* 41.. TB",
        ),
        ({"hidden": (50_000, 50_000), "latent_dim": 3}, r"hidden is \(50000, "),
        (
            {"prior": "mixture", "num_components": 10**5, "latent_dim": 9},
            "num_components is 100000, ",
        ),
        (
            {"prior": "flow", "num_couplings": 9, "coupling_units": 10**5},
            "coupling_units is 100000, .*, a step",
        ),
        (
            {"guide": "flow", "num_couplings": 999, "coupling_units": 9999},
            "coupling_units is 9999, ",
        ),
        (
            {"prior": "categorical", "gradient": "gumbel-softmax"}
            | {"num_variables": 1000, "num_components": 999},
            "num_(variables|components) is ",
        ),
        ({"network": "conv", "channels": (9999,)}, "channels is .9999,., "),
        ({"num_particles": 1000}, "num_particles is 1000, .* a step 3.. GB"),
        ({"batch_size": 10**6, "hidden": (4000,)}, "batch_size is 1000000, "),
        (
            {"prior": "mixture", "num_particles": 40, "num_components": 100},
            "num_(components|particles) is ",
        ),
    ],
)
def test_what_the_machine_has_not_is_refused(monkeypatch, choices, message):
    small_machine(monkeypatch)
    started = time.perf_counter()
    with pytest.raises(ValueError, match=f"^{message}"):
        build(Config(**choices))
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("preset", PRESETS)
def test_ordinary_choices_fit(preset):
    for config in (
        make_preset(preset),
        Config(hidden=(512,), latent_dim=50, batch_size=2048),
        Config(latent_dim=50, objective="iwae", num_particles=50),
    ):
        check_memory(config)
        assert sum(estimate_memory(config)) < 2e9


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_parameters_are_counted_and_nothing_is_drawn(prior, guide, network):
    config = VAEConfig(prior=prior, guide=guide, network=network, hidden=(9,))
    vae = build(config, 64)
    memory = estimate_memory(config, 64)
    learned = sum(p.numel() for p in vae.parameters())
    size = torch.get_default_dtype().itemsize
    assert memory == (size * (learned - 1), 0)  # the noise is left out
    whole = Config.of(config, FitConfig())
    assert estimate_memory(whole, 64)[0] == 4 * memory.parameters


@pytest.mark.parametrize(
    ("likelihood", "choices", "scalars"),
    [
        ("student-t", {"noise": "diagonal"}, 1),
        ("discretized-logistic", {"noise": "fixed"}, 0),
        ("poisson", {}, 0),
        ("poisson", {"library": "learned"}, 1),
        ("negative-binomial", {}, 0),
        ("negative-binomial", {"library": "learned"}, 1),
    ],
)
def test_a_likelihoods_parameters_are_counted(likelihood, choices, scalars):
    config = VAEConfig(likelihood=likelihood, hidden=(9,), **choices)
    learned = sum(p.numel() for p in build(config, 64).parameters())
    size = torch.get_default_dtype().itemsize
    assert estimate_memory(config, 64).parameters == size * (learned - scalars)


def test_a_step_needs_what_its_draws_do():
    def step(**choices):
        return estimate_memory(Config(**choices)).step

    base = step()
    assert 2 * base < step(batch_size=256) + 1 < 2 * base + 2
    assert 5 * base < step(num_particles=10) < 10 * base
    assert step(batch_size=10**6) == step(batch_size=60_000)
    categorical = {"prior": "categorical", "num_components": 100}
    sampled = step(**categorical, gradient="gumbel-softmax")
    assert 50 * sampled < step(**categorical) < 100 * sampled


def test_a_vae_is_not_refused_for_a_step_that_it_does_not_take(monkeypatch):
    small_machine(monkeypatch, 1e8)
    config = Config(num_particles=100)
    vae_config = VAEConfig(**part_of(config, VAEConfig))
    vae = build(vae_config)
    few = FitConfig(num_particles=100, batch_size=1)
    check_training_memory(vae, replace(few, num_particles=1), 60_000)
    many = replace(few, batch_size=10**6)
    check_training_memory(vae, replace(many, num_particles=1), 1)
    with pytest.raises(ValueError, match="batch_size is 1000000, with which"):
        check_training_memory(vae, many, 60_000)
    vae.recipe = None
    check_training_memory(vae, many, 60_000)


def test_a_short_run_of_a_long_warmup_is_found():
    assert find_short_warmup(FitConfig(epochs=3, warmup=3)) is None
    found = find_short_warmup(FitConfig(epochs=3, warmup=4, beta=2.0))
    assert found is not None and found.startswith(
        "warmup is 4, but the run ends after 3 epochs, with the KL at 1.5 in "
        "place of beta, 2.0; expected a warmup of at most epochs"
    )
