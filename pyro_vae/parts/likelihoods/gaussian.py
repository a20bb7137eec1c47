"""The Gaussian likelihood, for real data."""

import math

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.parts.likelihoods.linear import LinearLikelihood
from pyro_vae.parts.likelihoods.noise import NoiseLikelihood


class GaussianLikelihood(NoiseLikelihood, LinearLikelihood):
    r"""A Gaussian likelihood whose mean is the decoder's output.

    .. math:: p(x \mid z) = N(x \mid f(z, w), \Sigma), \quad
        \Sigma = \operatorname{diag}(s^2), \quad
        s = s_{\min} + e^{\text{log\_scale}}

    Sigma belongs to Theta and is learned, unless the noise is fixed. The lower
    bound keeps a diagonal noise from collapsing on pixels that are always 0,
    where the likelihood grows without limit as the scale falls. The ELBO of a
    fit with diagonal noise therefore depends on `min_scale`, and comparing it
    with the ELBO of a fit with another noise says little.

    Args:
        decoder: The network f, mapping `(..., P)` to the means `(..., D)`.
        noise: `shared`, one learned scale for all D dimensions; `diagonal`, a
            learned scale for each dimension; `fixed`, a scale that is not
            learned.
        noise_scale: The (initial) scale, a standard deviation in units of x:
            a number, or a tensor of shape `(D,)` for `fixed` and `diagonal`.
        min_scale: The lower bound of a learned scale, in units of x.

    Raises:
        ValueError: If the noise is unknown, or if a scale is not above its
            lower bound or has the wrong shape.
    """

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        return dist.Normal(self.decoder(z), self.scale).to_event(1)

    def linear_terms(
        self, z: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the terms of

        .. math:: \frac{x f}{s^2} - \left( \frac{f^2}{2 s^2} + \log s +
            \frac12 \log 2 \pi \right) - \frac{x^2}{2 s^2}
        """
        scale = self.scale.to(x)
        mean = self.decoder(z).to(x) / scale
        log_volume = scale.log() + 0.5 * math.log(2 * math.pi)
        volume = 0.5 * mean.square() + log_volume
        return mean / scale, volume, -0.5 * (x / scale).square()
