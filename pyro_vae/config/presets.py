"""Named, complete configurations, each with its source."""

from typing import Any

from pyro_vae.config.config import Config

# For each preset its choices, and the source that they are taken from. Where a
# source relies on its framework's defaults, such as the distribution of the
# initial weights, the choice is close to them and not the same.
PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "stats271": (
        {
            "prior": "normal",
            "guide": "normal",
            "likelihood": "gaussian",
            "binarize": "none",
            "noise": "shared",
            "latent_dim": 2,
            "hidden": (512,),
            "activation": "relu",
            "dataset": "mnist",
            "epochs": 20,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "objective": "elbo",
            "num_particles": 1,
        },
        "STATS 271, the assignment on variational autoencoders: 784-512-2, "
        "ReLU, Gaussian noise of one learned scale.",
    ),
    "pyro-example": (
        {
            "prior": "normal",
            "guide": "normal",
            "likelihood": "bernoulli",
            "binarize": "none",
            "latent_dim": 50,
            "hidden": (400,),
            "activation": "softplus",
            "init_std": 0.03,  # torch's default is uniform, about this wide
            "dataset": "mnist",
            "epochs": 101,
            "batch_size": 256,
            "learning_rate": 1e-3,
            "objective": "elbo",
            "num_particles": 1,
        },
        "Pyro, examples/vae/vae.py: 784-400-50, softplus, batch 256; gray "
        "pixels under a Bernoulli, as there, which is no likelihood of them. "
        "There the guide's scale is an exp, here a softplus.",
    ),
    "iwae-2015": (
        {
            "prior": "normal",
            "guide": "normal",
            "likelihood": "bernoulli",
            "binarize": "dynamic",
            "latent_dim": 50,
            "hidden": (200, 200),
            "activation": "tanh",
            "init_std": 0.05,  # theirs is uniform, by Glorot and Bengio
            "dataset": "mnist",
            "epochs": 3280,
            "batch_size": 20,
            "learning_rate": 1e-3,
            "schedule": "iwae-2015",
            "adam_eps": 1e-4 / 20,  # theirs is for the sum over a minibatch
            "objective": "iwae",
            "num_particles": 5,
        },
        "Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted "
        "Autoencoders, 2015: 784-200-200-50, tanh, binary images drawn anew in "
        "each epoch, batch 20, 8 stages of 3^i epochs; their k is "
        "num_particles. There the output's biases start at the mean image, "
        "and the guide's scale is an exp.",
    ),
    "svae-2018-normal": (
        {
            "prior": "normal",
            "guide": "normal",
            "likelihood": "bernoulli",
            "binarize": "dynamic",
            "latent_dim": 2,
            "hidden": (256, 128),
            "activation": "relu",
            "init_std": 0.05,  # theirs is by Glorot and Bengio
            "dataset": "mnist",
            "epochs": 1000,  # at most, for it stops early
            "batch_size": 64,
            "learning_rate": 1e-3,
            "objective": "analytic-kl",
            "num_particles": 1,
            "warmup": 100,
            "early_stopping": 50,
            "validation_fraction": 1 / 6,  # 10,000 images
        },
        "T. R. Davidson, L. Falorsi, N. De Cao, T. Kipf and J. M. Tomczak, "
        "Hyperspherical Variational Auto-Encoders, 2018, their normal VAE: "
        "784-256-128, ReLU, binary images drawn anew in each epoch, batch 64, "
        "the KL warmed up for 100 epochs, early stopping with a look-ahead of "
        "50; their latent sizes, 2 to 40, are latent_dim.",
    ),
}


def make_preset(name: str) -> Config:
    """Returns the complete configuration of a preset.

    Args:
        name: A key of `PRESETS`.

    Raises:
        ValueError: If there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(
            f"preset is {name!r}; expected one of {', '.join(PRESETS)}"
        )
    choices, _ = PRESETS[name]
    return Config(**choices)
