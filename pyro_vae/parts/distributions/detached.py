"""Draws that carry no gradient, of any distribution."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Detached(dist.TorchDistribution):
    """A distribution whose draws carry no gradient.

    Args:
        base: Any distribution.
    """

    arg_constraints: ClassVar = {}
    has_rsample = False

    def __init__(self, base: Distribution):
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, False)

    @property
    def support(self) -> constraints.Constraint | None:
        """The support of the base distribution."""
        return self.base.support

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws `sample_shape + batch_shape + event_shape`."""
        with torch.no_grad():
            z = self.base.sample(torch.Size(sample_shape))
        # A flow keeps the inverse of its own draws, without a gradient, and
        # would answer with it for their log-density. It does not know a copy.
        return z.clone()

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the base's log-density."""
        return self.base.log_prob(z)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Detached":
        """Returns the distribution with a larger batch shape."""
        return Detached(self.base.expand(batch_shape))
