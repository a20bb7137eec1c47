import pytest

from pyro_vae import Config, build
from pyro_vae.config.presets import PRESETS, make_preset
from pyro_vae.objectives import make_objective
from pyro_vae.training.ending import with_epochs


@pytest.mark.parametrize("name", PRESETS)
def test_each_is_valid_complete_and_says_where_it_comes_from(name):
    choices, source = PRESETS[name]
    config = make_preset(name)
    vae = build(config)
    assert vae.prior().event_shape == (config.latent_dim,)
    make_objective(
        vae,
        config.objective,
        config.num_particles,
        config.alpha,
        config.beta,
        config.free_bits,
    )
    assert {
        "prior",
        "guide",
        "likelihood",
        "binarize",
        "latent_dim",
        "hidden",
        "activation",
        "dataset",
        "epochs",
        "batch_size",
        "learning_rate",
        "objective",
        "num_particles",
    } <= set(choices)
    assert source.endswith(".") and len(source) > 50


def test_the_assignments_is_the_default_one():
    choices, _ = PRESETS["stats271"]
    default = with_epochs(Config(), 469)  # as MNIST has batches
    for name in set(choices) - {"dataset", "guide"}:  # there they are auto
        assert choices[name] == getattr(default, name), name


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="'vae'; expected one of stats271, "):
        make_preset("vae")
