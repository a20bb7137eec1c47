"""Amortised guides q(z | x): modules whose `forward(x)` is a distribution.

Each maps images `(B, D)` to a distribution of batch shape `(B,)` and event
shape `(P,)`, and owns the encoder network, g(x, phi) of the assignment. What
the encoder returns are the family's unconstrained parameters, lambda, `(B, F)`:
`guide(x)` is `guide.family(guide.encoder(x))`, and `family` takes parameters
from elsewhere, too.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.distributions import NormalMixture, OneHots
from pyro_vae.flows import Couplings, Flow

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
        return self.family(self.encoder(x))

    def family(self, features: Tensor) -> dist.Distribution:
        """Returns the member of the family with parameters `(..., F)`."""
        loc, scale = _loc_scale(features, self.min_scale)
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
        return self.family(self.encoder(x))

    def family(self, features: Tensor) -> dist.Distribution:
        """Returns the member of the family with parameters `(..., F)`."""
        loc, scale = _loc_scale(features, self.min_scale)
        return dist.Laplace(loc, scale).to_event(1)


class FullNormal(nn.Module):
    r"""A normal guide with a full covariance.

    .. math:: q(z \mid x) = N(z \mid \mu(x), L(x) L(x)^T)

    with L lower triangular, its diagonal positive.

    Args:
        encoder: Maps `(B, D)` to `(B, P (P + 3) / 2)`, which is read as the
            loc, the unconstrained diagonal of L (its entries are min_scale +
            softplus(unconstrained)), and what is below it, row by row.
        latent_dim: P.
        min_scale: The floor under the diagonal of L.
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        min_scale: float = MIN_SCALE,
    ):
        super().__init__()
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.min_scale = min_scale

    @staticmethod
    def num_features(latent_dim: int) -> int:
        """The encoder's outputs, F, for P latent dimensions."""
        return latent_dim * (latent_dim + 3) // 2

    def forward(self, x: Tensor) -> dist.Distribution:
        """Returns q(z | x), batch shape `(B,)`, event shape `(P,)`."""
        return self.family(self.encoder(x))

    def family(self, features: Tensor) -> dist.Distribution:
        """Returns the member of the family with parameters `(..., F)`."""
        size = self.latent_dim
        num_below = self.num_features(size) - 2 * size
        loc_scale, below = _split(features, 2 * size, num_below)
        loc, diagonal = _loc_scale(loc_scale, self.min_scale)
        row, column = torch.tril_indices(size, size, -1, device=loc.device)
        scale_tril = diagonal.diag_embed()
        scale_tril[..., row, column] = below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class FlowGuide(nn.Module):
    r"""A diagonal normal pushed through affine couplings that know x.

    .. math:: z = f(\epsilon, h(x)), \quad \epsilon \sim
        N(\mu(x), \operatorname{diag}\sigma(x)^2)

    Draws, and the density of any z, cost one pass through the couplings each.

    Args:
        encoder: Maps `(B, D)` to `(B, 2 P + C)`, which is read as the loc and
            the unconstrained scale of the normal, and the context h.
        latent_dim: P.
        context_dim: C.
        num_couplings: How many.
        units: The units of the hidden layer of each coupling's network.
        min_scale: The floor under the scale of the normal.

    Raises:
        ValueError: If `latent_dim` is below 2, or another size below 1.

    References:
        Variational inference with normalizing flows, D. J. Rezende and S.
        Mohamed, 2015. Density estimation using Real NVP, L. Dinh, J.
        Sohl-Dickstein and S. Bengio, 2017.
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        context_dim: int,
        num_couplings: int = 4,
        units: int = 64,
        min_scale: float = MIN_SCALE,
    ):
        super().__init__()
        self.encoder = encoder
        self.couplings = Couplings(
            latent_dim, num_couplings, units, context_dim
        )
        self.sizes = (2 * latent_dim, context_dim)
        self.min_scale = min_scale

    def forward(self, x: Tensor) -> dist.Distribution:
        """Returns q(z | x), batch shape `(B,)`, event shape `(P,)`."""
        return self.family(self.encoder(x))

    def family(self, features: Tensor) -> dist.Distribution:
        """Returns the member of the family with parameters `(..., F)`."""
        loc_scale, context = _split(features, *self.sizes)
        loc, scale = _loc_scale(loc_scale, self.min_scale)
        base = dist.Normal(loc, scale).to_event(1)
        return Flow(base, self.couplings(context))


class CategoricalGuide(nn.Module):
    r"""A guide of L independent one-hot variables of K states.

    .. math:: q(z \mid x) =
        \prod_{l=1}^L \prod_{k=1}^K \pi_{lk}(x)^{z_{lk}}

    Args:
        encoder: Maps `(B, D)` to the logits, `(B, L K)`.
        num_components: K.
    """

    def __init__(self, encoder: nn.Module, num_components: int):
        super().__init__()
        self.encoder = encoder
        self.num_components = num_components

    def forward(self, x: Tensor) -> dist.Distribution:
        """Returns q(z | x), batch shape `(B,)`, event shape `(L K,)`."""
        return self.family(self.encoder(x))

    def family(self, features: Tensor) -> dist.Distribution:
        """Returns the member of the family with parameters `(..., F)`."""
        _check_features(features, self.num_components, "K logits a variable")
        return OneHots(features.unflatten(-1, (-1, self.num_components)))


class MixtureGuide(nn.Module):
    r"""A guide of a component and a diagonal normal given the component.

    .. math:: q(y, z \mid x) = q(y \mid x) N(z \mid \mu_y(x),
        \operatorname{diag}\sigma_y(x)^2)

    Args:
        encoder: Maps `(B, D)` to `(B, K (1 + 2 P))`, read for each component
            as its logit, its loc and its unconstrained scale.
        num_components: K.
        min_scale: The floor under the scale.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_components: int,
        min_scale: float = MIN_SCALE,
    ):
        super().__init__()
        self.encoder = encoder
        self.num_components = num_components
        self.min_scale = min_scale

    def forward(self, x: Tensor) -> NormalMixture:
        """Returns q(z | x), batch shape `(B,)`, event shape `(P,)`."""
        return self.family(self.encoder(x))

    def family(self, features: Tensor) -> NormalMixture:
        """Returns the member of the family with parameters `(..., F)`."""
        _check_features(features, self.num_components, "K (1 + 2 P) numbers")
        features = features.unflatten(-1, (self.num_components, -1))
        loc, scale = _loc_scale(features[..., 1:], self.min_scale)
        return NormalMixture(features[..., 0], loc, scale)


def _check_features(features: Tensor, divisor: int, meaning: str) -> None:
    if features.shape[-1] % divisor:
        raise ValueError(
            f"the encoder returned {features.shape[-1]} features; expected "
            f"{meaning}, a multiple of K = {divisor}"
        )


def _split(features: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    if features.shape[-1] != sum(sizes):
        raise ValueError(
            f"the encoder returned {features.shape[-1]} features; expected "
            + " + ".join(map(str, sizes))
        )
    return features.split(sizes, dim=-1)


def _loc_scale(features: Tensor, min_scale: float) -> tuple[Tensor, Tensor]:
    """Splits the encoder's output, `(..., 2 P)`, into loc and scale."""
    if features.shape[-1] % 2:
        raise ValueError(
            f"the encoder returned {features.shape[-1]} features; expected an "
            "even number, a loc and a scale for each latent dimension"
        )
    loc, unconstrained = features.chunk(2, dim=-1)
    return loc, min_scale + softplus(unconstrained)
