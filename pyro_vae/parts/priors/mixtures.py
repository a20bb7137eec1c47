"""Priors with discrete latents, and mixtures of normals."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.contracts import Prior
from pyro_vae.parts.distributions import NormalMixture, OneHots
from pyro_vae.parts.priors.parameters import (
    MIN_SCALE,
    check_latent_dim,
    constrain_scale,
    register_logits,
    unconstrain_scale,
)


class CategoricalPrior(Prior):
    r"""L independent one-hot variables of K states.

    .. math:: p(z) = \prod_{l=1}^L \prod_{k=1}^K \pi_{lk}^{z_{lk}}

    Args:
        num_components: K.
        num_variables: L; z has P = L K entries.
        weights: `uniform`, all of them 1 / K; or `learned`, starting there.

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
        self.logits: Tensor
        if num_variables < 1:
            raise ValueError(
                f"num_variables is {num_variables}; expected at least 1"
            )
        register_logits(self, (num_variables, num_components), weights)

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(L K,)`."""
        return OneHots(self.logits)


class MixturePrior(Prior):
    r"""A mixture of normals with learned locations and scales.

    .. math:: y \sim \operatorname{Categorical}(\pi), \quad
        z \mid y \sim N(\mu_y, \operatorname{diag}\sigma_y^2)

    Model and guide declare the component as a site of its own, `y`. With
    `is_summed` it is summed out inside the density instead, so that any guide
    of a continuous z can be used:

    .. math:: p(z) = \sum_y \pi_y N(z \mid \mu_y, \operatorname{diag}\sigma_y^2)

    Args:
        num_components: K.
        latent_dim: P, the number of latent dimensions.
        weights: `uniform`, all of them 1 / K; or `learned`, starting there.
        is_summed: Whether the component is summed out.

    Raises:
        ValueError: If K is below 2, P below 1, or `weights` unknown.
    """

    def __init__(
        self,
        num_components: int,
        latent_dim: int,
        weights: str = "uniform",
        is_summed: bool = False,
    ):
        super().__init__()
        self.logits: Tensor
        check_latent_dim(latent_dim)
        register_logits(self, (num_components,), weights)
        self.is_summed = is_summed
        shape = (num_components, latent_dim)
        self.loc = nn.Parameter(torch.randn(shape))
        self.unconstrained_scale = nn.Parameter(
            torch.full(shape, unconstrain_scale(1 + MIN_SCALE))
        )

    @property
    def scale(self) -> Tensor:
        """The components' standard deviations, `(K, P)`, in units of z."""
        return constrain_scale(self.unconstrained_scale)

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        if not self.is_summed:
            return NormalMixture(self.logits, self.loc, self.scale)
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits),
            dist.Normal(self.loc, self.scale).to_event(1),
        )
