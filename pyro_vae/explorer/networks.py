"""Networks as lists of layers that a page's own code runs."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from pyro_vae.explorer.arrays import Blob
from pyro_vae.parts.networks import ACTIVATIONS, MLP, ConvDecoder, ConvEncoder

Layer = dict[str, Any]

CONTAINERS = (MLP, ConvEncoder, ConvDecoder)
NAMES = {kind: name for name, kind in ACTIVATIONS.items()}
NOTHING = (nn.Identity, nn.Dropout)  # in evaluation


class UnknownPartError(ValueError):
    """The page has no code for a part of a VAE."""


def describe_network(network: nn.Module, blob: Blob) -> list[Layer]:
    """Returns a network's layers, JSON-able, first to last.

    Args:
        network: One of `pyro_vae.parts.networks`, or an `nn.Sequential` of
            linear layers, convolutions and their activations.
        blob: Where its weights go.

    Raises:
        UnknownPartError: If the page has no code for a layer.
    """
    return list(_list_layers(network, blob))


def _list_layers(module: nn.Module, blob: Blob) -> Iterator[Layer]:
    if isinstance(module, nn.Sequential):
        for layer in module:
            yield from _list_layers(layer, blob)
    elif type(module) in CONTAINERS:
        yield from _list_layers(module.layers, blob)  # type: ignore[arg-type]
    elif type(module) in NAMES:
        yield {"kind": NAMES[type(module)]}
    elif isinstance(module, nn.Linear):
        yield {"kind": "linear", **_weights(module, blob)}
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        yield _describe_convolution(module, blob)
    elif isinstance(module, nn.Unflatten):
        yield {"kind": "unflatten", "shape": list(module.unflattened_size)}
    elif isinstance(module, nn.Flatten):
        yield {"kind": "flatten"}
    elif not isinstance(module, NOTHING):
        raise UnknownPartError(
            f"the page has no code for the layer {type(module).__name__}; "
            "expected linear layers, plain convolutions and the activations "
            + ", ".join(ACTIVATIONS)
        )


def _describe_convolution(
    module: nn.Conv2d | nn.ConvTranspose2d, blob: Blob
) -> Layer:
    is_plain = (
        isinstance(module.padding, tuple)
        and len({*module.stride}) == len({*module.padding}) == 1
        and module.groups == 1
        and {*module.dilation} == {1}
        and {*module.output_padding} == {0}
        and module.padding_mode == "zeros"
    )
    if not is_plain:
        raise UnknownPartError(
            f"the page has no code for the convolution {module}; expected one "
            "of equal strides and paddings, without dilation or groups"
        )
    transposed = isinstance(module, nn.ConvTranspose2d)
    return {
        "kind": "transposed" if transposed else "convolution",
        "stride": module.stride[0],
        "padding": module.padding[0],
        **_weights(module, blob),
    }


def _weights(
    module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, blob: Blob
) -> Layer:
    bias = module.bias
    return {
        "weight": blob.add_weight(module.weight),
        "bias": None if bias is None else blob.add(bias),
    }
