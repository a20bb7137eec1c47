"""The Poisson likelihood, for counts."""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.parts.likelihoods.counts import (
    EMPTY,
    Constraints,
    CountLikelihood,
)


class PoissonLikelihood(CountLikelihood):
    r"""A Poisson likelihood of counts.

    .. math:: p(x \mid z) = \prod_d \frac{\mu_d^{x_d} e^{-\mu_d}}{x_d!},
        \quad \mu = \ell \operatorname{softmax}(f(z, w))

    Its variance is its mean. Most counts vary more, given z: compare it with a
    `NegativeBinomialLikelihood`. For the library size and the arguments see
    `CountLikelihood`.
    """

    def counts(self, log_mean: Tensor) -> TorchDistribution:
        """Returns Poisson distributions, `(..., D)`."""
        return LogPoisson(log_mean)

    def linear_terms(
        self, z: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the terms of :math:`x \log \mu - \mu - \log x!`.

        With an observed library size, l, the means of a row add up to it, and
        :math:`x \log l` and l depend on x alone.
        """
        f, base = self.decoder(z).to(x), -torch.lgamma(x + 1)
        if self.library == "learned":
            log_mean = self.log_means(f)
            return log_mean, log_mean.exp(), base
        size = x.sum(-1, keepdim=True).clamp(min=EMPTY)
        base = base + x * size.log() - size / x.shape[-1]
        return f.log_softmax(-1), torch.zeros_like(f), base


class LogPoisson(TorchDistribution):
    """The Poisson distribution of a log-rate.

    torch's own takes the rate, which float32 cuts off at 1e-45; and of large
    counts its sums cancel, so that here they are taken in double precision.

    Args:
        log_rate: The log of the rate, of any shape.
    """

    arg_constraints: ClassVar[Constraints] = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor):
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), in nats."""
        log_rate, x = self.log_rate.double(), value.double()
        log_p = x * log_rate - log_rate.exp() - torch.lgamma(x + 1)
        return log_p.to(self.log_rate)

    @property
    def mean(self) -> Tensor:
        """The rate."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """The rate."""
        return self.mean

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws counts."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return torch.poisson(self.mean.expand(shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogPoisson":
        """Returns it with a larger batch shape."""
        return LogPoisson(self.log_rate.expand(torch.Size(batch_shape)))
