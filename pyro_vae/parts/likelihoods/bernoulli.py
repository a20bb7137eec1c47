"""The Bernoulli likelihood, for binary data."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus

from pyro_vae.parts.likelihoods.linear import LinearLikelihood


class BernoulliLikelihood(LinearLikelihood):
    r"""A Bernoulli likelihood whose log-odds are the decoder's output.

    .. math:: p(x \mid z) = \prod_d \sigma(f_d)^{x_d}
        (1 - \sigma(f_d))^{1 - x_d}, \quad f = f(z, w)

    It is a likelihood of binary images. It also takes gray images in [0, 1],
    as much of the literature does, but the result is then no log-likelihood:
    it is not normalized over gray images.

    Args:
        decoder: The network f, mapping `(..., P)` to the logits `(..., D)`.
    """

    support = constraints.unit_interval

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        logits = self.decoder(z)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)

    def linear_terms(
        self, z: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the terms of :math:`x f - \log(1 + e^f)`."""
        logits = self.decoder(z).to(x)
        return logits, softplus(logits), torch.zeros_like(x)
