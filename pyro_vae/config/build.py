"""build: the VAE that a configuration describes, part by part."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from pyro_vae.config.choices import part_of
from pyro_vae.config.conditions import CONDITIONS
from pyro_vae.config.config import Config, VAEConfig
from pyro_vae.config.networks import NETWORKS, ImageShape
from pyro_vae.config.sizes import check_memory, count_colors
from pyro_vae.config.tables import resolve
from pyro_vae.config.variants import (
    GRADIENTS,
    GUIDES,
    INFERENCES,
    LIKELIHOODS,
    PRIORS,
)
from pyro_vae.parts.masking import MaskedEncoder, MaskedLikelihood
from pyro_vae.vae import VAE


def build(
    config: VAEConfig,
    data_dim: int = 784,
    image_shape: Sequence[int] | None = None,
    num_labels: int = 10,
) -> VAE:
    """Makes the VAE that a configuration describes, with fresh weights.

    Args:
        config: The choices; a whole `Config` is one, too.
        data_dim: D, the number of pixels of an image.
        image_shape: (height, width) or (channels, height, width), for
            convolutions; by default a gray square.
        num_labels: K, the number of classes, for condition=labels.

    Returns:
        A VAE, on the CPU, its weights drawn from torch's global generator.

    Raises:
        ValueError: If a choice is not valid, or not for such images, or if
            the machine has not the memory for it; in a whole `Config` also
            that for its training.
    """
    check_memory(config, data_dim, colors=count_colors(image_shape))
    guide = resolve(config.prior, "guide", config.guide)
    gradient = resolve(config.prior, "gradient", config.gradient)
    shape = _image_shape(config, data_dim, image_shape)
    kind = NETWORKS[config.network].make()
    count = CONDITIONS[config.condition].make(num_labels)
    make_encoder = partial(_make_encoder, config, shape, extra=count)
    q = GUIDES[guide].make(config, make_encoder)
    prior = PRIORS[config.prior].make(config, q)
    decoder = kind.decoder(config, prior().event_shape[0] + count, shape)
    likelihood = LIKELIHOODS[config.likelihood].make(config, decoder)
    vae = VAE(
        prior,
        MaskedLikelihood(likelihood) if config.missing else likelihood,
        q,
        GRADIENTS[gradient].make(config, make_encoder),
        INFERENCES[config.inference].make(config),
        count,
    )
    vae.recipe = _recipe(config, data_dim, image_shape, count)
    return vae


def _make_encoder(
    config: VAEConfig, shape: ImageShape, outputs: int, extra: int
) -> nn.Module:
    """Returns an encoder; for missing values, one of x with a mask beside."""
    kind = NETWORKS[config.network].make()
    if not config.missing:
        return kind.encoder(config, shape, outputs, extra)
    both = (2, *shape) if len(shape) == 2 else (2 * shape[0], *shape[1:])
    network = kind.encoder(config, both, outputs, extra)
    return MaskedEncoder(network, math.prod(shape))


def _recipe(
    config: VAEConfig,
    data_dim: int,
    image_shape: Sequence[int] | None,
    num_labels: int,
) -> dict[str, Any]:
    """Returns what rebuilds a VAE, JSON-able."""
    whole = config if isinstance(config, Config) else Config.of(config)
    return {
        "config": asdict(whole),
        "data_dim": data_dim,
        "image_shape": image_shape and list(image_shape),
        **({"num_labels": num_labels} if num_labels else {}),
    }


def check_describes(config: object, vae: VAE) -> None:
    """Refuses a configuration that describes another VAE than a given one.

    A configuration whose choices of the VAE are all defaults describes none.

    Raises:
        ValueError: If it names a choice that the VAE was not made with.
    """
    if not isinstance(config, VAEConfig):
        return
    defaults = part_of(VAEConfig(), VAEConfig)
    ours = part_of(config, VAEConfig)
    if ours == defaults:
        return
    if vae.recipe is None:
        _check_by_hand(config, ours, defaults, vae)
        return
    built = {**defaults, **vae.recipe["config"]}
    for name, value in ours.items():
        if _as_json(value) != _as_json(built[name]):
            raise ValueError(
                f"{name} is {value!r}, but the VAE was built with "
                f"{built[name]!r}; expected the same, or no choices of the "
                "VAE: fit() trains the VAE as it is"
            )


def _check_by_hand(
    config: VAEConfig,
    ours: dict[str, Any],
    defaults: dict[str, Any],
    vae: VAE,
) -> None:
    """Compares what can be compared: this package's classes, and shapes."""
    data_dim = _data_dim(vae)
    with torch.random.fork_rng(devices=[]):
        count = vae.num_labels or 10
        described = build(config, data_dim or 784, num_labels=count)
    fault = None
    for name, theirs, its in (
        ("prior", described.prior, vae.prior),
        ("likelihood", described.likelihood, vae.likelihood),
        ("guide", described.guide.distribution, vae.guide.distribution),
        ("gradient", described.guide.gradient, vae.guide.gradient),
        ("inference", described.inference, vae.inference),
    ):
        is_known = type(its).__module__.startswith("pyro_vae.")
        if is_known and type(its) is not type(theirs):
            fault = f"its {name} is {type(its).__name__}"
            break
    shapes = {key: value.shape for key, value in vae.state_dict().items()}
    for key, value in described.state_dict().items():
        if (
            data_dim
            and fault is None
            and shapes.get(key, value.shape) != value.shape
        ):
            fault = f"its {key} has shape {tuple(shapes[key])}"
    if fault is not None:
        named = [n for n, value in ours.items() if value != defaults[n]]
        choices = ", ".join(f"{name}={ours[name]}" for name in named)
        raise ValueError(
            f"the configuration has {choices}, but this VAE was put together "
            f"by hand, and {fault}; expected choices that describe it, or "
            "none: fit() trains the VAE as it is"
        )


def _data_dim(vae: VAE) -> int | None:
    """Returns D, as the encoder or the decoder tells it; None if unknown."""
    encoder = getattr(vae.guide.distribution, "encoder", None)
    decoder = getattr(vae.likelihood, "decoder", None)
    inputs = getattr(encoder, "in_features", None)
    if inputs:
        return inputs - vae.num_labels
    return getattr(decoder, "out_features", None)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _image_shape(
    config: VAEConfig, data_dim: int, image_shape: Sequence[int] | None
) -> ImageShape:
    """Returns the image's shape; an MLP needs to know its size alone."""
    if config.network == "mlp":
        return (data_dim,)
    side = math.isqrt(data_dim)
    shape = (side, side) if image_shape is None else tuple(image_shape)
    if math.prod(shape) != data_dim:
        raise ValueError(
            f"an image has {data_dim} pixels and the shape {image_shape}; "
            "expected a shape of as many, for network=conv (by default a "
            "square's)"
        )
    return shape
