"""Amortised guides q(z | x): modules whose `forward(x)` is a distribution.

Each maps images `(B, D)` to a distribution of batch shape `(B,)` and event
shape `(P,)`, and owns the encoder network, g(x, phi) of the assignment.
"""

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

MIN_SCALE = 1e-4  # in units of z; keeps log q finite where q narrows


class DiagonalNormal(nn.Module):
    r"""A normal guide with diagonal covariance.

    .. math:: q(z \mid x) = N(z \mid \mu(x), \operatorname{diag}\sigma(x)^2)

    Args:
        encoder: Maps `(B, D)` to `(B, 2 P)`, which is read as the loc and the
            unconstrained scale: scale = min_scale + softplus(unconstrained).
        min_scale: The floor under the scale.
    """

    def __init__(self, encoder: nn.Module, min_scale: float = MIN_SCALE):
        super().__init__()
        self.encoder = encoder
        self.min_scale = min_scale

    def forward(self, x: Tensor) -> dist.Distribution:
        """Returns q(z | x), batch shape `(B,)`, event shape `(P,)`."""
        loc, scale = _loc_scale(self.encoder(x), self.min_scale)
        return dist.Normal(loc, scale).to_event(1)


class DiagonalLaplace(nn.Module):
    r"""A guide of independent Laplace distributions.

    .. math:: q(z \mid x) = \prod_p \operatorname{Laplace}(
        z_p \mid \mu_p(x), b_p(x))

    Args:
        encoder: Maps `(B, D)` to `(B, 2 P)`, which is read as the loc and the
            unconstrained scale: scale = min_scale + softplus(unconstrained).
        min_scale: The floor under the scale.
    """

    def __init__(self, encoder: nn.Module, min_scale: float = MIN_SCALE):
        super().__init__()
        self.encoder = encoder
        self.min_scale = min_scale

    def forward(self, x: Tensor) -> dist.Distribution:
        """Returns q(z | x), batch shape `(B,)`, event shape `(P,)`."""
        loc, scale = _loc_scale(self.encoder(x), self.min_scale)
        return dist.Laplace(loc, scale).to_event(1)


def _loc_scale(features: Tensor, min_scale: float) -> tuple[Tensor, Tensor]:
    """Splits the encoder's output, `(..., 2 P)`, into loc and scale."""
    if features.shape[-1] % 2:
        raise ValueError(
            f"the encoder returned {features.shape[-1]} features; expected an "
            "even number, a loc and a scale for each latent dimension"
        )
    loc, unconstrained = features.chunk(2, dim=-1)
    return loc, min_scale + softplus(unconstrained)
