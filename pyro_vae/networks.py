"""Networks: tensors in, tensors out, no probability."""

import itertools
from collections.abc import Sequence

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
        name: A key of `ACTIVATIONS`.

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
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        hidden: The size of each hidden layer; may be empty.
        activation: The name of the hidden layers' activation.
        output_activation: The name of the activation of the last layer, which
            is linear by default.
        init_std: Standard deviation of the initial weights.

    Raises:
        ValueError: For an unknown activation or a size below 1.
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
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=init_std)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(..., in_features)` to `(..., out_features)`."""
        return self.layers(inputs)
