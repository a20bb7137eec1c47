"""A mixture of normals whose component is a latent of its own."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import embedding

from pyro_vae.parts.distributions.discrete import (
    DiscreteLatents,
    WeightedDraws,
    declare_site,
)

FAR = 1e4  # nats below a known component; its exponential is 0, not a NaN


class NormalMixture(dist.MixtureSameFamily, DiscreteLatents):
    r"""A mixture of normals whose component is a latent of its own.

    .. math:: p(z) = \sum_y p(y) N(z \mid \mu_y, \operatorname{diag}\sigma_y^2)

    Its density is that of z, with the component summed out. A model or guide
    declares the component, `mixture_distribution`, as site `y`, and then
    `given(y)` as site `z`.

    Args:
        logits: Unnormalized log-probabilities of the components, `(..., K)`;
            the batch shape is `(...)`.
        loc: `(..., K, P)`; the event shape is `(P,)`.
        scale: Standard deviations, `(..., K, P)`.
    """

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor):
        self.loc, self.scale = loc, scale
        super().__init__(
            dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1)
        )

    @property
    def num_states(self) -> int:
        """The number of components, K."""
        return self.loc.shape[-2]

    @property
    def mode(self) -> Tensor:
        """The center of the most probable component, `(..., P)`."""
        loc, _ = self._component(self.most_probable_state)
        return loc

    @property
    def most_probable_state(self) -> Tensor:
        """The most probable component, `(...)` integers."""
        return self.mixture_distribution.logits.argmax(-1)

    def given(self, y: Tensor) -> Distribution:
        """Returns p(z | y) for components y, which broadcast with the batch."""
        return dist.Normal(*self._component(y)).to_event(1)

    def _component(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loc and scale of components y, `(..., P)`."""
        return Vindex(self.loc)[..., y, :], Vindex(self.scale)[..., y, :]

    def observe(self, labels: Tensor) -> "NormalMixture":
        """Returns the mixture whose component is known for some of the batch.

        Args:
            labels: The known components, integers of the batch shape; -1 where
                the component is not known.

        Raises:
            ValueError: If there is no such component.
        """
        logits = self.mixture_distribution.logits
        rest = torch.eye(self.num_states).to(logits) * FAR - FAR
        table = torch.cat([torch.zeros_like(rest[:1]), rest])
        try:
            certain = embedding(labels + 1, table)
        except (IndexError, RuntimeError) as error:
            raise ValueError(
                f"labels are of type {labels.dtype}, from {labels.min()} to "
                f"{labels.max()}; expected integers from 0 to "
                f"{self.num_states - 1}, or -1 where they are not known "
                f"({error})"
            ) from None
        is_known = (labels >= 0).unsqueeze(-1)
        logits = torch.where(is_known, certain, logits)
        return NormalMixture(logits, self.loc, self.scale)

    def declare(self, infer: dict[str, Any]) -> Tensor:
        """Declares the component as site `y`, then z given it as site `z`."""
        y = declare_site("y", self.mixture_distribution, infer)
        return declare_site("z", self.given(y))

    def detached(self) -> "NormalMixture":
        """Returns the mixture itself: draws of a component have no gradient."""
        return self

    def weighted_draws(
        self, p: Distribution, num_samples: int
    ) -> WeightedDraws:
        """Returns draws of z for each component, weighted by q(y | x).

        Raises:
            ValueError: If p is no `NormalMixture`.
        """
        if not isinstance(p, NormalMixture):
            raise ValueError(
                f"the prior's p(z) is {type(p).__name__}; expected a "
                "NormalMixture, as the guide's q(z | x) is"
            )
        z = self.component_distribution.rsample((num_samples,))
        log_q_y = self.mixture_distribution.logits
        log_q = log_q_y + self.component_distribution.log_prob(z)
        log_p = p.mixture_distribution.logits
        log_p = log_p + p.component_distribution.log_prob(z)
        weight = log_q_y.exp() / num_samples
        return WeightedDraws(z, weight, log_q - log_p)
