"""How much memory choices need, before anything is made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from pyro_vae.config.bounds import show
from pyro_vae.config.choices import part_of
from pyro_vae.config.config import Config, FitConfig, VAEConfig
from pyro_vae.config.tables import resolve
from pyro_vae.machine import find_memory
from pyro_vae.vae import VAE

MANY_IMAGES = 60_000  # where the number of the training images is not known
# The choices that memory grows with.
SIZES = (
    "latent_dim",
    "hidden",
    "channels",
    "num_components",
    "num_variables",
    "num_couplings",
    "coupling_units",
    "num_particles",
    "batch_size",
)
SMALL_LAYER = 64
MIXTURES = ("mixture", "summed-mixture", "vamp")


class Memory(NamedTuple):
    """The memory that a VAE needs, in bytes.

    Attributes:
        parameters: Of its parameters; in training also of their gradients and
            of Adam's two moments.
        step: Of a training step, between its forward and backward pass.
    """

    parameters: int
    step: int


class Count(NamedTuple):
    """How many numbers networks hold, and return for one input.

    Attributes:
        parameters: Their weights and biases.
        outputs: What all their layers return.
    """

    parameters: int = 0
    outputs: int = 0

    def plus(self, other: "Count", times: int = 1) -> "Count":
        """Returns the sum with so many times another count."""
        return Count(*[a + times * b for a, b in zip(self, other, strict=True)])


def estimate_memory(
    config: VAEConfig,
    data_dim: int = 784,
    num_data: int = MANY_IMAGES,
    colors: int = 1,
) -> Memory:
    """Estimates the memory that a VAE needs, and a step of its training.

    Nothing is made for it. A step holds the outputs of all layers, the terms of
    the log-densities, and their gradients; measured, it was within a fifth.

    Args:
        config: The choices; without those of a fit the VAE is not trained.
        data_dim: D, the number of pixels of an image.
        num_data: N, the number of training images.
        colors: The channels of an image.
    """
    guide = resolve(config.prior, "guide", config.guide)
    gradient = resolve(config.prior, "gradient", config.gradient)
    count = partial(_count_network, config, data_dim, colors)
    encoder = count(_count_outputs(config, guide))
    latents = _count_latents(config)
    flows = _count_flows(config, guide)
    # Those of a mixture's density, or of each of its enumerated components.
    components = config.num_components if config.prior in MIXTURES else 1
    decoder = count(latents, is_decoder=True)
    whole = encoder.plus(decoder).plus(flows)
    parameters = whole.parameters + _count_prior(config, data_dim)
    parameters += _count_noise(config, data_dim)
    if gradient == "score-function-baseline" and config.baseline == "learned":
        parameters += count(1).parameters
    size = torch.get_default_dtype().itemsize
    if not isinstance(config, FitConfig):
        return Memory(size * parameters, 0)
    parameters *= 4
    if config.inference == "local":  # each image's own, and Adam's of them
        parameters += 3 * num_data * _count_outputs(config, guide)
    states = 1
    if gradient == "enumerated":
        states = config.num_components**config.num_variables
    draw = decoder.outputs + 2 * data_dim + flows.outputs + components * latents
    image = encoder.outputs + config.num_particles * states * draw
    images = min(config.batch_size, num_data)
    return Memory(size * parameters, 2 * size * images * image)


def _count_latents(config: VAEConfig) -> int:
    """Returns P, the numbers of z."""
    if config.prior == "categorical":
        return config.num_variables * config.num_components
    return config.latent_dim


def _count_outputs(config: VAEConfig, guide: str) -> int:
    """Returns F, the numbers that the encoder gives a guide."""
    size = _count_latents(config)
    return {
        "full": size * (size + 3) // 2,
        "flow": 2 * size + config.coupling_units,
        "categorical": size,
        "mixture": config.num_components * (1 + 2 * size),
    }.get(guide, 2 * size)


def _count_prior(config: VAEConfig, data_dim: int) -> int:
    """Returns the parameters of the prior, but for a flow's."""
    each = {"vamp": data_dim, "mixture": 2 * config.latent_dim}
    each["summed-mixture"] = each["mixture"]
    return config.num_components * each.get(config.prior, 0)


def _count_noise(config: VAEConfig, data_dim: int) -> int:
    """Returns the likelihood's parameters of each dimension."""
    is_diagonal = config.noise == "diagonal"
    has_dispersion = config.likelihood == "negative-binomial"
    return data_dim * (is_diagonal + has_dispersion)


def _count_network(
    config: VAEConfig,
    data_dim: int,
    colors: int,
    end: int,
    is_decoder: bool = False,
) -> Count:
    """Returns the count of an encoder, or of a decoder, which mirrors one.

    Args:
        config: The choices.
        data_dim: D, the number of values of an image.
        colors: The channels of an image.
        end: The size of the end that is no image.
        is_decoder: Whether the image is its output.
    """
    masks = 2 if config.missing and not is_decoder else 1
    sizes, convolutions = [masks * data_dim, *config.hidden, end], Count()
    if config.network == "conv":
        channels = [masks * colors, *config.channels]
        for step, (few, many) in enumerate(pairwise(channels), start=1):
            sizes[0] = many * (data_dim // colors) // 4**step
            weights = 16 * few * many + (few if is_decoder else many)
            convolutions = convolutions.plus(Count(weights, 2 * sizes[0]))
    layers = _count_layers(sizes[::-1] if is_decoder else sizes)
    return layers.plus(convolutions)


def _count_flows(config: VAEConfig, guide: str) -> Count:
    """Returns the count of the flows of the prior and of the guide."""
    flows = Count()
    for is_flow, context in (
        (config.prior == "flow", 0),
        (guide == "flow", config.coupling_units),
    ):
        flows = flows.plus(_count_couplings(config, context), int(is_flow))
    return flows


def _count_couplings(config: VAEConfig, context: int) -> Count:
    """Returns the count of a flow's networks."""
    fixed = config.latent_dim // 2
    moved = 2 * (config.latent_dim - fixed)
    layers = _count_layers([fixed + context, config.coupling_units, moved])
    return Count().plus(layers, config.num_couplings)


def _count_layers(sizes: Sequence[int]) -> Count:
    """Returns the count of linear layers, with an activation between them."""
    parameters = sum(a * b + b for a, b in pairwise(sizes))
    return Count(parameters, 2 * sum(sizes[1:-1]) + max(sizes[0], sizes[-1]))


def check_memory(
    config: VAEConfig,
    data_dim: int = 784,
    num_data: int = MANY_IMAGES,
    colors: int = 1,
) -> None:
    """Refuses choices for which the machine has not enough memory.

    Args:
        config: The choices; without those of a fit the VAE is not trained.
        data_dim: D, the number of pixels of an image.
        num_data: N, the number of training images.
        colors: The channels of an image.

    Raises:
        ValueError: If they need more than there is.
    """
    available = find_memory()
    needed = estimate_memory(config, data_dim, num_data, colors)
    if sum(needed) <= available:
        return
    available = max(available, _device_memory(config))
    if sum(needed) <= available:
        return
    smaller = {
        name: sum(estimate_memory(lessened, data_dim, num_data, colors))
        for name, lessened in _lessen(config)
    }
    name = min(smaller, key=smaller.__getitem__, default=None)
    what = f"an image has {data_dim} pixels"
    if name is not None:
        what = f"{name} is {show(getattr(config, name))}"
    parts = f"parameters {_in_words(needed.parameters)}"
    if needed.step:
        parts = f"training, {parts}, a step {_in_words(needed.step)}"
    raise ValueError(
        f"{what}, with which these choices need about "
        f"{_in_words(sum(needed))} of memory ({parts}), and the machine has "
        f"{_in_words(available)}; expected a smaller {name or 'image'}"
    )


def check_training_memory(vae: VAE, config: FitConfig, num_data: int) -> None:
    """Refuses to train a VAE for which the machine has not enough memory.

    Args:
        vae: The VAE; of one that `build` did not make nothing is known.
        config: The choices of the fit.
        num_data: N, the number of training images.

    Raises:
        ValueError: If it needs more than there is.
    """
    if vae.recipe is not None:
        choices = {**vae.recipe["config"], **part_of(config, FitConfig)}
        whole = Config.from_dict(choices)
        colors = count_colors(vae.recipe["image_shape"])
        check_memory(whole, vae.recipe["data_dim"], num_data, colors)


def count_colors(image_shape: Sequence[int] | None) -> int:
    """Returns the channels of an image of a shape; 1 for gray ones."""
    return image_shape[0] if image_shape and len(image_shape) == 3 else 1


def _lessen(config: VAEConfig) -> Iterator[tuple[str, VAEConfig]]:
    """Yields each choice that could be smaller, and the choices with it so."""
    defaults = {field.name: field.default for field in fields(config)}
    for name in SIZES:
        value = getattr(config, name, None)
        if isinstance(value, tuple):
            less: Any = tuple(min(size, SMALL_LAYER) for size in value)
        elif value is not None:
            less = min(value, defaults[name])
        if value is not None and less != value:
            yield name, replace(config, **{name: less})


def _device_memory(config: VAEConfig) -> float:
    """Returns the memory of the GPU that a fit may run on, or 0."""
    device = getattr(config, "device", "cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.get_device_properties(0).total_memory


def _in_words(size: float) -> str:
    """Returns a number of bytes in words."""
    for unit, scale in (("GB", 1e9), ("TB", 1e12)):
        if size < 1000 * scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e15:.1f} PB"
