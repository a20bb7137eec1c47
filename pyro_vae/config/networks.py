"""The rows of the networks: encoder and decoder of one kind."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyro_vae.config.variant import Table, Variant
from pyro_vae.parts import networks

ImageShape = tuple[int, ...]
# The decoder's last activation; the other likelihoods take any number.
OUTPUT_ACTIVATIONS = {"gaussian": "sigmoid"}


@dataclass(frozen=True)
class Networks:
    """Encoder and decoder of one kind.

    Attributes:
        encoder: Makes an encoder of (config, image shape, outputs, inputs
            beside the image).
        decoder: Makes a decoder of (config, inputs, image shape).
    """

    encoder: Callable[[Any, ImageShape, int, int], nn.Module]
    decoder: Callable[[Any, int, ImageShape], nn.Module]


# make() returns Networks
NETWORKS: Table = {
    "mlp": Variant(
        lambda: Networks(
            lambda c, shape, outputs, extra: networks.MLP(
                math.prod(shape) + extra,
                outputs,
                c.hidden,
                c.activation,
                init_std=c.init_std,
            ),
            lambda c, inputs, shape: networks.MLP(
                inputs,
                math.prod(shape),
                c.hidden[::-1],
                c.activation,
                OUTPUT_ACTIVATIONS.get(c.likelihood),
                c.init_std,
            ),
        )
    ),
    "conv": Variant(
        lambda: Networks(
            lambda c, shape, outputs, extra: networks.ConvEncoder(
                shape,
                outputs,
                c.channels,
                c.hidden,
                c.activation,
                c.init_std,
                extra,
            ),
            lambda c, inputs, shape: networks.ConvDecoder(
                inputs,
                shape,
                c.channels[::-1],
                c.hidden[::-1],
                c.activation,
                OUTPUT_ACTIVATIONS.get(c.likelihood),
                c.init_std,
            ),
        ),
        uses=("channels",),
    ),
}
