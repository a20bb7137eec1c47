"""Normalising flows: stacks of affine couplings, cheap in both directions."""

from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import ConditionalDenseNN, DenseNN
from torch import Tensor, nn
from torch.distributions import Transform


class Couplings(nn.Module):
    r"""The networks of a stack of affine couplings, of Pyro's transforms.

    .. math:: y_{1:d} = x_{1:d}, \quad
        y_{d+1:P} = m(x_{1:d}, h) + e^{s(x_{1:d}, h)} x_{d+1:P}

    with d half of P, and s held between Pyro's bounds, -5 and 3. Between two
    couplings the order of the dimensions is reversed, so that each is changed
    by every other one. A context h, the same for all of them, is optional. At
    first m and s are 0, and the flow is the identity.

    Args:
        dim: P.
        num_couplings: How many.
        units: The units of the hidden layer of each coupling's network.
        context_dim: The size of h; 0 for none.

    Raises:
        ValueError: If `dim` is below 2, or another size below 1.

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
        self.networks = nn.ModuleList(
            ConditionalDenseNN(self.split, context_dim, *sizes)
            if context_dim
            else DenseNN(self.split, *sizes)
            for _ in range(num_couplings)
        )
        for network in self.networks:  # the flow starts as the identity
            nn.init.zeros_(network.layers[-1].weight)
            nn.init.zeros_(network.layers[-1].bias)
        reversal = torch.arange(dim - 1, -1, -1)
        self.register_buffer("reversal", reversal, persistent=False)

    def forward(self, context: Tensor | None = None) -> list[Transform]:
        """Returns the transforms, first to last.

        They are made anew at each call, since each keeps its last input and
        output, with their gradients, for as long as it lives.

        Args:
            context: h, `(..., C)`.
        """
        transforms: list[Transform] = []
        for network in self.networks:
            if context is not None:
                network = partial(network, context=context)
            transforms += [
                AffineCoupling(self.split, network),
                Permute(self.reversal),
            ]
        return transforms[:-1]


class Flow(dist.TransformedDistribution):
    r"""A base distribution pushed through transforms.

    .. math:: z = f(\epsilon), \quad \log p(z) = \log p_0(f^{-1}(z))
        + \log |\det \partial f^{-1}(z) / \partial z|

    The transforms may depend on a context of the batch's shape.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(z), in nats; z broadcasts with the batch shape."""
        event_dim = len(self.event_shape)
        shape = torch.broadcast_shapes(
            value.shape, self.batch_shape + value.shape[-event_dim:]
        )
        if shape != value.shape:  # else a draw stays itself, and its inverse
            value = value.expand(shape)
        return super().log_prob(value)
