from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch

from pyro_vae import Config, DiagonalLaplace, Laplace, build


def test_the_defaults_are_the_assignments():
    vae = build(Config())
    shapes = {name: tuple(p.shape) for name, p in vae.named_parameters()}
    assert shapes["guide.distribution.encoder.layers.0.weight"] == (512, 784)
    assert shapes["guide.distribution.encoder.layers.2.weight"] == (4, 512)
    assert shapes["model.likelihood.decoder.layers.0.weight"] == (512, 2)
    assert shapes["model.likelihood.decoder.layers.2.weight"] == (784, 512)
    assert shapes["model.likelihood.log_scale"] == ()


def test_every_choice_reaches_the_vae():
    config = Config(
        prior="laplace",
        prior_scale=0.3,
        guide="laplace",
        noise="diagonal",
        noise_scale=0.2,
        latent_dim=3,
        hidden=(7, 5),
        activation="tanh",
        init_std=1e-3,
    )
    vae = build(config, data_dim=64)
    assert isinstance(vae.prior, Laplace)
    assert vae.prior.scale.tolist() == [0.3] * 3
    assert isinstance(vae.guide.distribution, DiagonalLaplace)
    assert torch.allclose(vae.likelihood.scale, torch.full((64,), 0.2))
    decoder = vae.likelihood.decoder.layers
    assert [layer.out_features for layer in decoder[::2][:3]] == [5, 7, 64]
    assert isinstance(decoder[1], torch.nn.Tanh)
    assert decoder[0].weight.abs().max() < 1e-2


def test_it_is_frozen_and_round_trips():
    config = Config(hidden=(3, 4))
    with pytest.raises(FrozenInstanceError):
        config.epochs = 3
    assert Config.from_dict(asdict(config)) == config
    assert Config.from_dict({"hidden": [3, 4]}) == config


def test_unknown_keys_raise():
    with pytest.raises(ValueError, match="unknown choices epoch; expected"):
        Config.from_dict({"epoch": 3})


@pytest.mark.parametrize(
    ("choice", "value"),
    [
        ("prior", "cauchy"),
        ("prior_scale", 0.0),
        ("guide", "flow"),
        ("noise", "none"),
        ("noise_scale", -1.0),
        ("noise_scale", float("nan")),
        ("latent_dim", 0),
        ("hidden", (512, 0)),
        ("activation", "rleu"),
        ("init_std", 0.0),
        ("limit", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("learning_rate", float("inf")),
        ("num_particles", 0),
        ("objective", "vae"),
        ("alpha", float("inf")),
        ("beta", 0.0),
        ("warmup", -1),
        ("free_bits", -0.1),
        ("early_stopping", 0),
        ("validation_fraction", 1.0),
        ("gradient_clip", 0.0),
        ("adam_eps", -1e-8),
        ("schedule", "steps"),
        ("seed", -1),
        ("seed", 2**31),
    ],
)
def test_a_bad_choice_is_named_by_its_flag(choice, value):
    flag = "--" + choice.replace("_", "-")
    with pytest.raises(ValueError, match=f"^{flag} is .*; expected "):
        replace(Config(), **{choice: value})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"objective": "renyi", "alpha": 1}, "--alpha is 1; expected another"),
        (
            {"early_stopping": 3, "warmup": 30},
            "--warmup is 30; expected at most --epochs, 20, with early",
        ),
        (
            {"objective": "dreg", "free_bits": 0.1},
            "--objective is 'dreg'; expected elbo or analytic-kl with --free",
        ),
        (
            {"prior": "mixture", "objective": "stl"},
            "--objective is 'stl'; expected elbo with the enumerated gradient",
        ),
        (
            {"gradient": "score-function", "free_bits": 0.1},
            "--free-bits is 0.1; expected 0 with the score-function gradient",
        ),
    ],
)
def test_what_an_objective_cannot_take_is_said(choices, message):
    with pytest.raises(ValueError, match=message):
        Config(**choices)
