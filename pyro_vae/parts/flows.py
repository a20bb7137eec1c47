"""Normalizing flows: stacks of affine couplings, cheap in both directions."""

from collections.abc import Callable
from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import ConditionalDenseNN, DenseNN
from torch import Tensor, nn
from torch.distributions import Transform


class Couplings(nn.Module):
    r"""The networks of a stack of affine couplings.

    .. math:: y_{1:d} = x_{1:d}, \quad
        y_{d+1:P} = m(x_{1:d}, h) + e^{s(x_{1:d}, h)} x_{d+1:P}

    with d half of P, and s held between the bounds of Pyro's `AffineCoupling`,
    -5 and 3. Between two couplings the order of the dimensions is reversed, so
    that two couplings together change all of them. All couplings may depend on
    a context h. At first m and s are 0, and the couplings change nothing.

    Args:
        dim: P, the number of dimensions, at least 2.
        num_couplings: The number of couplings.
        units: The number of units in the hidden layer of each coupling's
            network.
        context_dim: C, the size of the context h; 0 if there is no context.

    Raises:
        ValueError: If `dim` is below 2, or `num_couplings` or `units` below 1.

    References:
        Density estimation using Real NVP, L. Dinh, J. Sohl-Dickstein and S.
        Bengio, 2017.
    """

    def __init__(
        self, dim: int, num_couplings: int, units: int, context_dim: int = 0
    ):
        super().__init__()
        if dim < 2:
            raise ValueError(
                f"latent_dim is {dim}; expected at least 2 for a flow, which "
                "shifts and scales a half of the dimensions by the other"
            )
        if min(num_couplings, units) < 1:
            raise ValueError(
                f"num_couplings is {num_couplings} and units is {units}; "
                "expected at least 1 of each"
            )
        self.split = dim // 2
        sizes = ([units], [dim - self.split] * 2)
        networks = [
            ConditionalDenseNN(self.split, context_dim, *sizes)
            if context_dim
            else DenseNN(self.split, *sizes)
            for _ in range(num_couplings)
        ]
        # Fits that start from other couplings can get stuck far below these.
        for network in networks:
            for parameter in network.layers[-1].parameters():
                nn.init.zeros_(parameter)
        self.networks = nn.ModuleList(networks)
        reversal = torch.arange(dim - 1, -1, -1)
        self.register_buffer("reversal", reversal, persistent=False)

    def forward(self, context: Tensor | None = None) -> list[Transform]:
        """Returns new transforms, in the order in which they are applied.

        Args:
            context: The context h, `(..., C)`, if the couplings depend on one.
        """
        # Pyro's transforms keep their last input and output, and with them an
        # autograd graph, so that each draw needs transforms of its own.
        transforms: list[Transform] = []
        for network in self.networks:
            shift_and_scale: Callable = network
            if context is not None:
                shift_and_scale = partial(network, context=context)
            transforms += [
                AffineCoupling(self.split, shift_and_scale),
                Permute(self.reversal),
            ]
        return transforms[:-1]


class Flow(dist.TransformedDistribution):
    r"""A base distribution pushed through transforms.

    .. math:: z = f(\epsilon), \quad \log p(z) = \log p_0(f^{-1}(z))
        + \log |\det \partial f^{-1}(z) / \partial z|

    Unlike in torch's class, the transforms may depend on a context, whose
    leading dimensions are the batch shape.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(z), in nats.

        Args:
            value: z, whose leading dimensions broadcast with the batch shape.
        """
        event_dim = len(self.event_shape)
        shape = torch.broadcast_shapes(
            value.shape, self.batch_shape + value.shape[-event_dim:]
        )
        # The transforms recognize their own draw, which even an expansion to
        # its own shape would hide from them, and then do not invert it again.
        if shape != value.shape:
            value = value.expand(shape)
        return super().log_prob(value)
