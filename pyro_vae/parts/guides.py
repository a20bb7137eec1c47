"""Amortized guides q(z | x), one for each family of distributions.

Each owns an encoder network, g(x, phi), whose outputs `(B, F)` are the
unconstrained parameters lambda of its family.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from pyro_vae.parts.contracts import AmortizedGuide
from pyro_vae.parts.distributions import NormalMixture, OneHots
from pyro_vae.parts.flows import Couplings, Flow

MIN_SCALE = 1e-4  # in units of z; keeps log q finite where q narrows


class NormalGuide(AmortizedGuide):
    r"""A normal guide with diagonal covariance.

    .. math:: q(z \mid x) = N(z \mid \mu(x), \operatorname{diag}\sigma(x)^2)

    Args:
        encoder: The network that maps images `(B, D)` to `(B, 2 P)`: the loc
            and the unconstrained scale of each latent dimension. The scale is
            min_scale + softplus(unconstrained).
        min_scale: The floor under the scale, in units of z.
    """

    def __init__(self, encoder: nn.Module, min_scale: float = MIN_SCALE):
        super().__init__(encoder)
        self.min_scale = min_scale

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the diagonal normal with parameters `(..., 2 P)`."""
        loc, scale = _loc_scale(parameters, self.min_scale)
        return dist.Normal(loc, scale).to_event(1)


class LaplaceGuide(AmortizedGuide):
    r"""A guide of independent Laplace distributions.

    .. math:: q(z \mid x) = \prod_p \operatorname{Laplace}(
        z_p \mid \mu_p(x), b_p(x))

    Args:
        encoder: The network that maps images `(B, D)` to `(B, 2 P)`: the loc
            and the unconstrained scale of each latent dimension. The scale is
            min_scale + softplus(unconstrained).
        min_scale: The floor under the scale, in units of z.
    """

    def __init__(self, encoder: nn.Module, min_scale: float = MIN_SCALE):
        super().__init__(encoder)
        self.min_scale = min_scale

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the Laplace distributions with parameters `(..., 2 P)`."""
        loc, scale = _loc_scale(parameters, self.min_scale)
        return dist.Laplace(loc, scale).to_event(1)


class FullNormalGuide(AmortizedGuide):
    r"""A normal guide with a full covariance.

    .. math:: q(z \mid x) = N(z \mid \mu(x), L(x) L(x)^T)

    with L lower triangular, its diagonal positive.

    Args:
        encoder: The network that maps images `(B, D)` to `(B, P (P + 3) / 2)`:
            the loc, the unconstrained diagonal of L, and the entries of L below
            the diagonal, row by row. An entry of the diagonal is
            min_scale + softplus(unconstrained).
        latent_dim: P, the number of latent dimensions.
        min_scale: The floor under the diagonal of L, in units of z.
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        min_scale: float = MIN_SCALE,
    ):
        super().__init__(encoder)
        self.latent_dim = latent_dim
        self.min_scale = min_scale

    @staticmethod
    def count_parameters(latent_dim: int) -> int:
        """Returns F, the number of the encoder's outputs.

        Args:
            latent_dim: P, the number of latent dimensions.
        """
        return latent_dim * (latent_dim + 3) // 2

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the normal with parameters `(..., P (P + 3) / 2)`."""
        size = self.latent_dim
        num_below = self.count_parameters(size) - 2 * size
        loc_scale, below = _split(parameters, 2 * size, num_below)
        loc, diagonal = _loc_scale(loc_scale, self.min_scale)
        row, column = torch.tril_indices(size, size, -1, device=loc.device)
        scale_tril = diagonal.diag_embed()
        scale_tril[..., row, column] = below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class FlowGuide(AmortizedGuide):
    r"""A diagonal normal pushed through affine couplings that depend on x.

    .. math:: z = f(\epsilon, h(x)), \quad \epsilon \sim
        N(\mu(x), \operatorname{diag}\sigma(x)^2)

    A draw and a density each cost one pass through the couplings.

    Args:
        encoder: The network that maps images `(B, D)` to `(B, 2 P + C)`: the
            loc and the unconstrained scale of the normal, and the context h.
        latent_dim: P, the number of latent dimensions, at least 2.
        context_dim: C, the size of the context h.
        num_couplings: The number of couplings.
        units: The number of units in the hidden layer of each coupling's
            network.
        min_scale: The floor under the scale of the normal, in units of z.

    Raises:
        ValueError: If `latent_dim` is below 2, or `num_couplings` or `units`
            below 1.

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
        super().__init__(encoder)
        self.couplings = Couplings(
            latent_dim, num_couplings, units, context_dim
        )
        self.sizes = (2 * latent_dim, context_dim)
        self.min_scale = min_scale

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the flow with parameters `(..., 2 P + C)`."""
        loc_scale, context = _split(parameters, *self.sizes)
        loc, scale = _loc_scale(loc_scale, self.min_scale)
        base = dist.Normal(loc, scale).to_event(1)
        return Flow(base, self.couplings(context))


class CategoricalGuide(AmortizedGuide):
    r"""A guide of L independent one-hot variables of K states.

    .. math:: q(z \mid x) =
        \prod_{l=1}^L \prod_{k=1}^K \pi_{lk}(x)^{z_{lk}}

    Args:
        encoder: The network that maps images `(B, D)` to the logits,
            `(B, L K)`.
        num_components: K, the number of states of each variable.
    """

    def __init__(self, encoder: nn.Module, num_components: int):
        super().__init__(encoder)
        self.num_components = num_components

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the one-hot variables with logits `(..., L K)`."""
        _check_parameters(
            parameters, self.num_components, "K logits a variable"
        )
        return OneHots(parameters.unflatten(-1, (-1, self.num_components)))


class MixtureGuide(AmortizedGuide):
    r"""A guide of a component y, and of a diagonal normal z given y.

    .. math:: q(y, z \mid x) = q(y \mid x) N(z \mid \mu_y(x),
        \operatorname{diag}\sigma_y(x)^2)

    Args:
        encoder: The network that maps images `(B, D)` to `(B, K (1 + 2 P))`:
            for each component its logit, its loc and its unconstrained scale.
        num_components: K, the number of components.
        min_scale: The floor under the scale, in units of z.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_components: int,
        min_scale: float = MIN_SCALE,
    ):
        super().__init__(encoder)
        self.num_components = num_components
        self.min_scale = min_scale

    def family(self, parameters: Tensor) -> NormalMixture:
        """Returns the mixture with parameters `(..., K (1 + 2 P))`."""
        _check_parameters(
            parameters, self.num_components, "K (1 + 2 P) numbers"
        )
        parameters = parameters.unflatten(-1, (self.num_components, -1))
        loc, scale = _loc_scale(parameters[..., 1:], self.min_scale)
        return NormalMixture(parameters[..., 0], loc, scale)


def _check_parameters(parameters: Tensor, divisor: int, meaning: str) -> None:
    """Refuses a number of parameters that is no multiple of K."""
    if parameters.shape[-1] % divisor:
        raise ValueError(
            f"the encoder returned {parameters.shape[-1]} parameters; expected "
            f"{meaning}, a multiple of K = {divisor}"
        )


def _split(parameters: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    """Splits the parameters, `(..., F)`, into parts of the given sizes."""
    if parameters.shape[-1] != sum(sizes):
        raise ValueError(
            f"the encoder returned {parameters.shape[-1]} parameters; expected "
            + " + ".join(map(str, sizes))
        )
    return parameters.split(sizes, dim=-1)


def _loc_scale(parameters: Tensor, min_scale: float) -> tuple[Tensor, Tensor]:
    """Splits the parameters, `(..., 2 P)`, and returns loc and scale."""
    if parameters.shape[-1] % 2:
        raise ValueError(
            f"the encoder returned {parameters.shape[-1]} parameters; expected "
            "an even number, a loc and a scale for each latent dimension"
        )
    loc, unconstrained = parameters.chunk(2, dim=-1)
    return loc, min_scale + softplus(unconstrained)
