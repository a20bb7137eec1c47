from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch

from pyro_vae import Config, LaplaceGuide, LaplacePrior, build


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
    assert isinstance(vae.prior, LaplacePrior)
    assert vae.prior.scale.tolist() == [0.3] * 3
    assert isinstance(vae.guide.distribution, LaplaceGuide)
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
        ("prior", "gauss"),
        ("prior_scale", 0.0),
        ("prior_scale", 1e40),
        ("prior_df", 0.0),
        ("num_couplings", 0),
        ("coupling_units", 0),
        ("likelihood", "gauss"),
        ("binarize", "always"),
        ("network", "cnn"),
        ("channels", ()),
        ("channels", (32, 0)),
        ("guide", "spline"),
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
def test_a_bad_choice_is_named(choice, value):
    with pytest.raises(ValueError, match=f"^{choice} is .*; expected "):
        replace(Config(), **{choice: value})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"objective": "renyi", "alpha": 1}, "alpha is 1; expected another"),
        (
            {"early_stopping": 3, "warmup": 30, "epochs": 20},
            "warmup is 30; expected at most epochs, 20, with early_stopping",
        ),
        (
            {"objective": "dreg", "free_bits": 0.1},
            "free_bits is 0.1; expected 0 with objective=dreg",
        ),
        (
            {"prior": "mixture", "objective": "stl"},
            "objective is 'stl'; expected elbo with gradient=enumerated",
        ),
        (
            {"gradient": "score-function", "free_bits": 0.1},
            "free_bits is 0.1; expected 0 with gradient=score-function",
        ),
    ],
)
def test_what_an_objective_cannot_take_is_said(choices, message):
    with pytest.raises(ValueError, match=message):
        Config(**choices)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"prior": "mixture", "guide": "flow"},
            "guide is 'flow'; expected mixture with prior=mixture",
        ),
        (
            {"prior": "vamp", "gradient": "enumerated"},
            "gradient is 'enumerated'; expected one of pathwise, score-funct",
        ),
        (
            {"learn_prior_scale": True},
            "learn_prior_scale is True; expected False .leave it out.: it go",
        ),
        (
            {"prior": "flow", "latent_dim": 1},
            "latent_dim is 1; expected a whole number of at least 2 with prior",
        ),
        (
            {"guide": "flow", "latent_dim": 1},
            "latent_dim is 1; expected a whole number of at least 2 with guide",
        ),
        (
            {"likelihood": "bernoulli", "noise": "diagonal"},
            "noise is 'diagonal'; expected shared .leave it out.: it goes wi",
        ),
        (
            {"likelihood": "continuous-bernoulli", "noise_scale": 0.3},
            "noise_scale is 0.3; expected None .leave it out.: it goes with",
        ),
        (
            {"binarize": "static"},
            "binarize is 'static'; expected none .leave it out.: it goes wit",
        ),
        (
            {"likelihood": "continuous-bernoulli", "binarize": "dynamic"},
            "binarize is 'dynamic'; expected none .leave it out.: it goes wi",
        ),
        (
            {"prior": "vamp", "inference": "local"},
            "inference is 'local'; expected one of amortized, semi-amortized w",
        ),
        (
            {"prior": "student-t", "prior_df": 1e4},
            "prior_df is 10000.0; expected a positive number up to 1000",
        ),
    ],
)
def test_choices_that_do_not_go_together_are_refused(choices, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Config(**choices)


@pytest.mark.parametrize(
    ("choice", "value", "owner"),
    [
        ("prior_scale", 2.0, {"prior": "logistic"}),
        ("prior_df", 7.0, {"prior": "student-t"}),
        ("num_components", 3, {"prior": "vamp"}),
        ("prior_weights", "learned", {"prior": "mixture"}),
        ("num_variables", 2, {"prior": "categorical"}),
        ("num_couplings", 2, {"guide": "flow"}),
        ("coupling_units", 8, {"prior": "flow"}),
        ("baseline", "learned", {"gradient": "score-function-baseline"}),
        (
            "temperature",
            0.3,
            {"prior": "categorical", "gradient": "gumbel-softmax"},
        ),
        (
            "straight_through",
            True,
            {"prior": "categorical", "gradient": "gumbel-softmax"},
        ),
        ("e_steps", 4, {"inference": "local"}),
        ("e_learning_rate", 0.2, {"inference": "semi-amortized"}),
        ("channels", (8,), {"network": "conv"}),
        ("alpha", 0.2, {"objective": "renyi"}),
        ("validation_fraction", 0.2, {"early_stopping": 3}),
    ],
)
def test_what_would_have_no_effect_is_refused(choice, value, owner):
    with pytest.raises(ValueError, match=f"^{choice} is .*it goes with "):
        Config(**{choice: value})
    assert getattr(Config(**{choice: value}, **owner), choice) == value


@pytest.mark.parametrize("prior", ["laplace", "student-t", "logistic"])
def test_a_prior_is_told_its_scale(prior):
    df = {"prior_df": 7.0} if prior == "student-t" else {}
    config = Config(prior=prior, prior_scale=0.3, **df)
    assert build(config, 64).prior.scale.tolist() == [0.3] * 2
    learned = build(replace(config, learn_prior_scale=True), 64).prior
    assert learned.unconstrained_scale.requires_grad
    if prior == "student-t":
        assert learned.df == 7.0


def test_the_sizes_of_a_prior_reach_it():
    config = Config(
        prior="vamp", num_components=7, prior_weights="learned", hidden=(8,)
    )
    vamp = build(config, 64).prior
    assert vamp.pseudo_inputs.shape == (7, 64)
    assert vamp.logits.requires_grad
    config = replace(config, prior="summed-mixture")
    assert build(config, 64).prior.loc.shape == (7, 2)
    config = Config(
        prior="flow", guide="flow", num_couplings=3, coupling_units=5
    )
    vae = build(config, 64)
    for couplings in (vae.prior.couplings, vae.guide.distribution.couplings):
        assert len(couplings.networks) == 3
        assert couplings.networks[0].layers[0].out_features == 5


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_only_a_gaussian_squashes_its_decoder(network):
    for likelihood in ("gaussian", "bernoulli", "continuous-bernoulli"):
        config = Config(likelihood=likelihood, network=network, hidden=(8,))
        decoder = build(config, 64).likelihood.decoder
        squashes = isinstance(decoder.layers[-1], torch.nn.Sigmoid)
        assert squashes is (likelihood == "gaussian")


def test_the_shape_of_an_image_reaches_the_convolutions():
    config = Config(network="conv", hidden=(8,), channels=(4, 6))
    assert build(config, 784).generate(torch.zeros(1, 2)).shape == (1, 784)
    vae = build(config, 96, (8, 12))
    sizes = [
        layer.out_channels
        for layer in vae.guide.distribution.encoder.layers
        if isinstance(layer, torch.nn.Conv2d)
    ]
    assert sizes == [4, 6]
    for data_dim, shape, message in (
        (100, None, r"images are of 10 x 10 pixels"),
        (192, (8, 8, 3), r"images are of 8 x 3 pixels"),
        (90, None, "has 90 pixels and the shape None; expected a shape of as"),
    ):
        with pytest.raises(ValueError, match=message):
            build(config, data_dim, shape)
