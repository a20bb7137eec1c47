"""Config: every choice that makes a run, and the VAE that it describes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import nn

from pyro_vae import guides, likelihoods, networks, priors
from pyro_vae.vae import VAE

PRIORS: dict[str, Callable[["Config"], nn.Module]] = {
    "normal": lambda c: priors.StandardNormal(c.latent_dim),
    "laplace": lambda c: priors.Laplace(c.latent_dim, c.prior_scale),
}
GUIDES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "normal": guides.DiagonalNormal,
    "laplace": guides.DiagonalLaplace,
}


@dataclass(frozen=True)
class Config:
    """Every choice that makes a run. Bounds are in nats per image."""

    prior: Literal["normal", "laplace"] = "normal"
    """p(z), the distribution of the latents."""
    prior_scale: float = 1.0
    """Scale b of the Laplace prior, in units of z."""
    guide: Literal["normal", "laplace"] = "normal"
    """q(z | x), the family of the approximate posterior."""
    noise: Literal["shared", "fixed", "diagonal"] = "shared"
    """Sigma of the Gaussian likelihood: one learned scale, a scale that is
    not learned, or a learned scale for each pixel."""
    noise_scale: float = 0.5
    """(Initial) standard deviation of the noise, in units of x (0 to 1)."""
    latent_dim: int = 2
    """Number of latent dimensions."""
    hidden: tuple[int, ...] = (512,)
    """Units in each hidden layer of the encoder; the decoder mirrors it."""
    activation: Literal[
        "relu", "tanh", "softplus", "elu", "gelu", "silu", "sigmoid"
    ] = "relu"
    """Activation of the hidden layers."""
    init_std: float = 0.1
    """Standard deviation of the initial weights; biases start at zero."""
    dataset: str = "auto"
    """mnist, fashion-mnist, kmnist, digits (8 x 8, comes with scikit-learn),
    or the path of an .npy or .npz file. auto: mnist, or digits where mnist is
    neither on disk nor to be had."""
    limit: int | None = None
    """Use the first LIMIT training images, and as many test images, only."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a minibatch."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    num_particles: int = 1
    """Samples of z per image in the training objective."""
    engine: Literal["auto", "compiled", "eager"] = "auto"
    """Pyro's own SVI step, or the same step compiled. auto: compiled where
    the run is long enough to pay for the compilation."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Of large float32 matrix products while fitting. highest: float32; high:
    TF32 on CUDA; medium: bfloat16 where the processor has it, 8 bits of
    precision for 24 and a step 1.2 to 1.6 times as fast."""
    seed: int = 0
    """Seed of the weights, the noise and the order of the images."""
    device: str = "auto"
    """Torch device: cpu, cuda, ... auto: cuda where there is one."""

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                names = get_args(hint)
                expected = f"one of {', '.join(names)}"
                self._check(name, expected, names.__contains__)
        for name, expected, holds in _CHECKS:
            self._check(name, expected, holds)

    def _check(
        self, name: str, expected: str, holds: Callable[[Any], bool]
    ) -> None:
        value = getattr(self, name)
        if not holds(value):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is {value!r}; expected {expected}")

    @classmethod
    def from_dict(cls, choices: dict[str, Any]) -> "Config":
        """Makes a Config of what `dataclasses.asdict` or JSON gave.

        Raises:
            ValueError: If a key is not a choice, or a value not valid.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(choices) - known):
            raise ValueError(
                f"unknown choices {', '.join(unknown)}; expected some of "
                f"{', '.join(sorted(known))}"
            )
        return cls(**choices)


def build(config: Config, data_dim: int = 784) -> VAE:
    """Makes the VAE that a configuration describes, with fresh weights.

    Args:
        config: The choices.
        data_dim: D, the number of pixels of an image.

    Returns:
        A VAE, on the CPU, its weights drawn from torch's global generator.

    Raises:
        ValueError: If a choice is not valid.
    """
    encoder = networks.MLP(
        data_dim,
        2 * config.latent_dim,
        config.hidden,
        config.activation,
        init_std=config.init_std,
    )
    decoder = networks.MLP(
        config.latent_dim,
        data_dim,
        config.hidden[::-1],
        config.activation,
        output_activation="sigmoid",
        init_std=config.init_std,
    )
    vae = VAE(
        PRIORS[config.prior](config),
        likelihoods.Gaussian(decoder, config.noise, config.noise_scale),
        GUIDES[config.guide](encoder),
    )
    return vae.describe(config, data_dim)


def _at_least(bound: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= bound


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


_NATURAL = "a whole number of at least 1"
_POSITIVE = "a positive number"
_CHECKS: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("prior_scale", _POSITIVE, _positive),
    ("noise_scale", _POSITIVE, _positive),
    ("latent_dim", _NATURAL, _at_least(1)),
    (
        "hidden",
        "whole numbers of at least 1",
        lambda sizes: all(map(_at_least(1), sizes)),
    ),
    ("init_std", _POSITIVE, _positive),
    ("limit", _NATURAL, lambda n: n is None or _at_least(1)(n)),
    ("epochs", "a whole number of at least 0", _at_least(0)),
    ("batch_size", _NATURAL, _at_least(1)),
    ("learning_rate", _POSITIVE, _positive),
    ("num_particles", _NATURAL, _at_least(1)),
    (
        "seed",
        "a whole number from 0 to 2**31 - 1",
        lambda n: _at_least(0)(n) and n < 2**31,
    ),
]
