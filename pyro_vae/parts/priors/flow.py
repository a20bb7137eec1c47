"""A prior made from a standard normal by a normalizing flow."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.parts.contracts import Prior
from pyro_vae.parts.flows import Couplings, Flow


class FlowPrior(Prior):
    r"""A standard normal pushed through affine couplings.

    .. math:: z = f(\epsilon), \quad \epsilon \sim N(0, I), \quad
        \log p(z) = \log N(f^{-1}(z) \mid 0, I)
        + \log |\det \partial f^{-1}(z) / \partial z|

    A draw and a density each cost one pass through the couplings.

    Args:
        latent_dim: P, the number of latent dimensions.
        num_couplings: The number of couplings.
        units: The units in the hidden layer of each coupling's network.

    Raises:
        ValueError: If `latent_dim` is below 2, or another size below 1.

    References:
        Density estimation using Real NVP, L. Dinh, J. Sohl-Dickstein and S.
        Bengio, 2017.
    """

    loc: Tensor

    def __init__(
        self, latent_dim: int, num_couplings: int = 4, units: int = 64
    ):
        super().__init__()
        self.couplings = Couplings(latent_dim, num_couplings, units)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        scale = torch.ones_like(self.loc)
        base = dist.Normal(self.loc, scale).to_event(1)
        return Flow(base, self.couplings())
