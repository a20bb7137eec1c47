"""Priors p(z): modules whose `forward()` returns a distribution.

Each has batch shape `()` and event shape `(P,)`, P the latent dimension.
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.distributions import NormalMixture, OneHots

MIN_SCALE = 1e-4  # in units of z, as in the guides
WEIGHTS = ("uniform", "learned")


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


class CategoricalPrior(nn.Module):
    r"""L independent one-hot variables of K states.

    .. math:: p(z) = \prod_{l=1}^L \prod_{k=1}^K \pi_{lk}^{z_{lk}}

    Args:
        num_components: K.
        num_variables: L; z has P = L K entries.
        weights: `uniform`, all of them 1 / K; or `learned`, from there.

    Raises:
        ValueError: If K is below 2, L below 1, or `weights` unknown.
    """

    def __init__(
        self,
        num_components: int,
        num_variables: int = 1,
        weights: str = "uniform",
    ):
        super().__init__()
        if num_variables < 1:
            raise ValueError(
                f"num_variables is {num_variables}; expected at least 1"
            )
        _register_logits(self, (num_variables, num_components), weights)

    def forward(self) -> dist.Distribution:
        """Returns p(z), batch shape `()`, event shape `(L K,)`."""
        return OneHots(self.logits)


class MixturePrior(nn.Module):
    r"""A mixture of normals with learned places and scales.

    .. math:: y \sim \operatorname{Categorical}(\pi), \quad
        z \mid y \sim N(\mu_y, \operatorname{diag}\sigma_y^2)

    Model and guide declare the component as a site of its own, `y`.

    Args:
        num_components: K.
        latent_dim: P, the number of latent dimensions.
        weights: `uniform`, all of them 1 / K; or `learned`, from there.

    Raises:
        ValueError: If K is below 2, P below 1, or `weights` unknown.
    """

    def __init__(
        self, num_components: int, latent_dim: int, weights: str = "uniform"
    ):
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; expected at least 1")
        _register_logits(self, (num_components,), weights)
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        inverse_softplus_of_1 = math.log(math.e - 1)
        self.unconstrained_scale = nn.Parameter(
            torch.full((num_components, latent_dim), inverse_softplus_of_1)
        )

    @property
    def scale(self) -> Tensor:
        """The components' standard deviations, `(K, P)`, in units of z."""
        return MIN_SCALE + softplus(self.unconstrained_scale)

    def forward(self) -> NormalMixture:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        return NormalMixture(self.logits, self.loc, self.scale)


def _register_logits(
    module: nn.Module, shape: tuple[int, ...], weights: str
) -> None:
    if shape[-1] < 2:
        raise ValueError(f"num_components is {shape[-1]}; expected at least 2")
    if weights not in WEIGHTS:
        raise ValueError(
            f"weights is {weights!r}; expected one of {', '.join(WEIGHTS)}"
        )
    if weights == "learned":
        module.logits = nn.Parameter(torch.zeros(shape))
    else:
        module.register_buffer("logits", torch.zeros(shape), persistent=False)


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
