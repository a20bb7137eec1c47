"""Networks for encoders and decoders: tensors in, tensors out.

Each tells its sizes as `in_features` and `out_features`, as nn.Linear does, and
takes any number of leading dimensions.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


def make_activation(name: str) -> nn.Module:
    """Returns a new activation module.

    Args:
        name: The activation's name, a key of `ACTIVATIONS`.

    Raises:
        ValueError: If there is no activation of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation is {name!r}; expected one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()


class MLP(nn.Module):
    r"""A multilayer perceptron, one hidden layer of 512 ReLU units by default.

    .. math:: h_{l+1} = a(W_l h_l + b_l), \quad
        W_l \sim N(0, \text{init\_std}^2), \quad b_l = 0

    Args:
        in_features: The size of the last dimension of the input.
        out_features: The size of the last dimension of the output.
        hidden: The number of units in each hidden layer, first to last. It may
            be empty: the network is then linear.
        activation: The name of the hidden layers' activation.
        output_activation: The name of the last layer's activation. By default
            the last layer is linear.
        init_std: The standard deviation of the initial weights.

    Raises:
        ValueError: If an activation is unknown or a size is below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (512,),
        activation: str = "relu",
        output_activation: str | None = None,
        init_std: float = 0.1,
    ):
        sizes = [in_features, *hidden, out_features]
        if min(sizes) < 1:
            raise ValueError(
                f"layer sizes are {sizes}; expected each to be at least 1"
            )
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), make_activation(activation)]
        layers.pop()
        if output_activation is not None:
            layers.append(make_activation(output_activation))
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.layers = nn.Sequential(*layers)
        _initialize(self.layers, init_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(..., in_features)` to `(..., out_features)`."""
        return self.layers(inputs)


class ConvEncoder(nn.Module):
    r"""Convolutions that halve the sides of an image, then an `MLP`.

    The kernels have 4 x 4 pixels and move in steps of 2. The initial weights
    are drawn as those of an `MLP`.

    Args:
        image_shape: The image's (height, width), or (channels, height, width);
            D is their product.
        out_features: The size of the last dimension of the output.
        channels: The number of channels of each convolution's output, first to
            last.
        hidden: The number of units in each hidden layer of the MLP that follows
            the convolutions.
        activation: The name of the activation after each layer but the last.
        init_std: The standard deviation of the initial weights.
        num_extra: The number of inputs after the image, such as one-hot labels,
            which pass the convolutions by.

    Raises:
        ValueError: If a side cannot be halved once for each convolution, or a
            size is below 1.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int,
        channels: Sequence[int] = (32, 64),
        hidden: Sequence[int] = (512,),
        activation: str = "relu",
        init_std: float = 0.1,
        num_extra: int = 0,
    ):
        super().__init__()
        image_shape = _with_channels(image_shape)
        map_shape = _map_shape(image_shape, channels)
        self.num_extra, self.out_features = num_extra, out_features
        self.in_features = math.prod(image_shape) + num_extra
        layers: list[nn.Module] = [nn.Unflatten(-1, image_shape)]
        for before, after in itertools.pairwise([image_shape[0], *channels]):
            layers += [
                nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1),
                make_activation(activation),
            ]
        size = math.prod(map_shape) + num_extra
        mlp = MLP(size, out_features, hidden, activation, init_std=init_std)
        self.layers = nn.Sequential(*layers, nn.Flatten(), mlp)
        _initialize(self.layers, init_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(..., D)` to `(..., out_features)`, or `(..., D + extra)`."""
        rows = inputs.reshape(-1, self.in_features)
        size = self.in_features - self.num_extra
        features = self.layers[:-1](rows[:, :size])
        outputs = self.layers[-1](torch.cat([features, rows[:, size:]], dim=1))
        return outputs.view(*inputs.shape[:-1], self.out_features)


class ConvDecoder(nn.Module):
    r"""An `MLP`, then transposed convolutions: `ConvEncoder` mirrored.

    Args:
        in_features: The size of the last dimension of the input.
        image_shape: The image's (height, width), or (channels, height, width);
            D is their product.
        channels: The number of channels of each transposed convolution's input,
            first to last.
        hidden: The number of units in each hidden layer of the MLP that comes
            before the convolutions.
        activation: The name of the activation after each layer but the last.
        output_activation: The name of the last layer's activation. By default
            the last layer is linear.
        init_std: The standard deviation of the initial weights.

    Raises:
        ValueError: If a side cannot be halved once for each convolution, or a
            size is below 1.
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden: Sequence[int] = (512,),
        activation: str = "relu",
        output_activation: str | None = None,
        init_std: float = 0.1,
    ):
        super().__init__()
        image_shape = _with_channels(image_shape)
        map_shape = _map_shape(image_shape, channels[::-1])
        self.in_features = in_features
        self.out_features = math.prod(image_shape)
        size = math.prod(map_shape)
        layers: list[nn.Module] = [
            MLP(in_features, size, hidden, activation, activation, init_std),
            nn.Unflatten(-1, map_shape),
        ]
        for before, after in itertools.pairwise([*channels, image_shape[0]]):
            layers += [
                nn.ConvTranspose2d(
                    before, after, kernel_size=4, stride=2, padding=1
                ),
                make_activation(activation),
            ]
        layers[-1] = nn.Flatten()  # in place of the last activation
        if output_activation is not None:
            layers.append(make_activation(output_activation))
        self.layers = nn.Sequential(*layers)
        _initialize(self.layers, init_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(..., in_features)` to `(..., D)`."""
        outputs = self.layers(inputs.reshape(-1, self.in_features))
        return outputs.view(*inputs.shape[:-1], self.out_features)


def _with_channels(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns the channels, height and width of an image."""
    if len(image_shape) not in (2, 3):
        raise ValueError(
            f"image_shape is {tuple(image_shape)}; expected (height, width) "
            "or (channels, height, width)"
        )
    height, width = image_shape[-2:]
    return image_shape[0] if len(image_shape) == 3 else 1, height, width


def _map_shape(
    image_shape: tuple[int, int, int], channels: Sequence[int]
) -> tuple[int, int, int]:
    """Returns the channels, height and width of the smallest feature maps."""
    step = 2 ** len(channels)
    _, height, width = image_shape
    if height % step or width % step:
        raise ValueError(
            f"images are of {height} x {width} pixels; expected sides that are "
            f"multiples of {step}, halved by each of {len(channels)} "
            "convolutions: use network=mlp"
        )
    if not channels or min(channels) < 1:
        raise ValueError(
            f"channels are {tuple(channels)}; expected some, each at least 1"
        )
    return channels[-1], height // step, width // step


def _initialize(layers: nn.Module, init_std: float) -> None:
    """Draws all weights anew and sets all biases to zero."""
    for layer in layers.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=init_std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
