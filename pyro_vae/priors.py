"""Priors p(z): modules whose `forward()` returns a distribution.

Each has batch shape `()` and event shape `(P,)`, P the latent dimension.
"""

import pyro.distributions as dist
import torch
from torch import nn


class StandardNormal(nn.Module):
    r"""The standard normal prior.

    .. math:: p(z) = N(z \mid 0, I)

    Args:
        latent_dim: P, the number of latent dimensions.

    Raises:
        ValueError: If `latent_dim` is below 1.
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        _register_loc_scale(self, latent_dim, scale=1.0)

    def forward(self) -> dist.Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class Laplace(nn.Module):
    r"""Independent Laplace priors, centred at zero.

    .. math:: p(z) = \prod_p \frac{1}{2 b} \exp(-|z_p| / b)

    Args:
        latent_dim: P, the number of latent dimensions.
        scale: b; the standard deviation is :math:`\sqrt{2} b`.

    Raises:
        ValueError: If `latent_dim` is below 1 or `scale` is not positive.
    """

    def __init__(self, latent_dim: int, scale: float = 1.0):
        super().__init__()
        _register_loc_scale(self, latent_dim, scale)

    def forward(self) -> dist.Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


def _register_loc_scale(module: nn.Module, latent_dim: int, scale: float):
    """Buffers, so that `.to(device)` moves them; fixed, so never saved."""
    if latent_dim < 1:
        raise ValueError(f"latent_dim is {latent_dim}; expected at least 1")
    if not scale > 0:
        raise ValueError(f"prior scale is {scale}; expected a positive number")
    module.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
    module.register_buffer(
        "scale", torch.full((latent_dim,), float(scale)), persistent=False
    )
