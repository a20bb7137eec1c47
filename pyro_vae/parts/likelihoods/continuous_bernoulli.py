"""The continuous Bernoulli likelihood, for gray pixels."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_vae.parts.likelihoods.linear import LinearLikelihood

SERIES_BELOW = 0.1  # the logit below which the Taylor series is used


class ContinuousBernoulliLikelihood(LinearLikelihood):
    r"""A continuous Bernoulli likelihood, for gray pixels in [0, 1].

    .. math:: p(x \mid z) = \prod_d C(f_d) \sigma(f_d)^{x_d}
        (1 - \sigma(f_d))^{1 - x_d}, \quad
        C(f) = \frac{f}{\tanh(f / 2)}

    Args:
        decoder: The network f, mapping `(..., P)` to the logits `(..., D)`.
            They are not log-odds: the mean is 1 / (1 - exp(-f)) - 1 / f.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders, G. Loaiza-Ganem and J. P. Cunningham, 2019.
    """

    support = constraints.unit_interval

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        return ExactContinuousBernoulli(logits=self.decoder(z)).to_event(1)

    def linear_terms(
        self, z: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the terms of :math:`x f - (\log(1 + e^f) - \log C(f))`."""
        logits = self.decoder(z).to(x)
        log_volume = softplus(logits) - log_normalizer(logits)
        return logits, log_volume, torch.zeros_like(x)


class ExactContinuousBernoulli(dist.ContinuousBernoulli):
    """The continuous Bernoulli distribution, accurate for large logits too.

    torch's own formulas use the probabilities, which float32 cuts off at logits
    of about 16 on either side: for a black pixel with a logit of -30 the
    log-density is off by 0.6 nats, and an image has hundreds of such pixels.
    The formulas here use the logits.
    """

    @property
    def mean(self) -> Tensor:
        r"""The mean, :math:`1 / (1 - e^{-f}) - 1 / f`."""
        squared, away = _small_and_large(self.logits)
        series = 1 / 12 - squared / 720 + squared.square() / 30240
        exact = -1 / torch.expm1(-away) - 1 / away
        is_small = self.logits.abs() < SERIES_BELOW
        return torch.where(is_small, 0.5 + self.logits * series, exact)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        logits, value = torch.broadcast_tensors(self.logits, value)
        return log_normalizer(logits) - binary_cross_entropy_with_logits(
            logits, value, reduction="none"
        )


def log_normalizer(logits: Tensor) -> Tensor:
    r"""Returns log C, the log-normalizer of the continuous Bernoulli.

    .. math:: \log C(f) = \log \frac{f}{\tanh(f / 2)}
        = \log 2 + \frac{f^2}{12} - \frac{7 f^4}{1440} + \ldots

    Args:
        logits: The logits f, of any shape.

    Returns:
        log C(f), of the same shape, in nats.
    """
    squared, away = _small_and_large(logits)
    series = squared * (1 / 12 - squared * (7 / 1440 - squared * 31 / 90720))
    exact = (away / torch.tanh(away / 2)).log()
    is_small = logits.abs() < SERIES_BELOW
    return torch.where(is_small, math.log(2) + series, exact)


def _small_and_large(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the squares of the small logits, and the large logits.

    The squares are 0 where a logit is large, and the large logits are 1 where
    it is small, so that the branch of a `torch.where` that is not taken has a
    finite gradient.
    """
    is_small = logits.abs() < SERIES_BELOW
    zero, one = torch.zeros_like(logits), torch.ones_like(logits)
    return (
        torch.where(is_small, logits, zero).square(),
        torch.where(is_small, one, logits),
    )
