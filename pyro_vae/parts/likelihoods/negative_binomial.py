"""The negative binomial likelihood, for overdispersed counts."""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_vae.parts.contracts import feature_count
from pyro_vae.parts.likelihoods.counts import (
    EMPTY,
    Constraints,
    CountLikelihood,
)

PAIRS = 10_000_000  # numbers held at a time by cross_log_prob
SMALLEST, LARGEST = 1e-4, 1e4  # inverse dispersion


class NegativeBinomialLikelihood(CountLikelihood):
    r"""A negative binomial likelihood of counts.

    .. math:: p(x \mid z) = \prod_d
        \frac{\Gamma(x_d + \theta_d)}{\Gamma(\theta_d) \, x_d!}
        \left(\frac{\theta_d}{\theta_d + \mu_d}\right)^{\theta_d}
        \left(\frac{\mu_d}{\theta_d + \mu_d}\right)^{x_d},
        \quad \mu = \ell \operatorname{softmax}(f(z, w))

    Its variance is :math:`\mu + \mu^2 / \theta`. Each dimension has an inverse
    dispersion, theta, which is learned, between 1e-4 and 1e4; as it grows, the
    distribution becomes a Poisson's. For the library size see
    `CountLikelihood`.

    Args:
        decoder: The network f, mapping `(..., P)` to `(..., D)`.
        library: `observed` or `learned`.
        library_size: The usual sum of a row; by default the training data's.
        inverse_dispersion: The initial theta: a number, or a tensor `(D,)`.

    Raises:
        ValueError: If the library is unknown, a number out of its bounds, or
            the decoder does not tell its `out_features`.
    """

    def __init__(
        self,
        decoder: nn.Module,
        library: str = "observed",
        library_size: float | None = None,
        inverse_dispersion: float | Tensor = 1.0,
    ):
        super().__init__(decoder, library, library_size)
        theta = torch.as_tensor(
            inverse_dispersion, dtype=torch.get_default_dtype()
        )
        if not ((theta > SMALLEST) & (theta < LARGEST)).all():
            raise ValueError(
                f"inverse_dispersion is {inverse_dispersion}; expected it "
                f"between {SMALLEST:g} and {LARGEST:g}"
            )
        theta = theta.expand(feature_count(decoder, "out_features"))
        self.log_theta = nn.Parameter(theta.log().clone())

    @property
    def inverse_dispersion(self) -> Tensor:
        """Theta, `(D,)`."""
        return self.log_theta.exp().clamp(SMALLEST, LARGEST)

    def counts(self, log_mean: Tensor) -> TorchDistribution:
        """Returns negative binomial distributions, `(..., D)`."""
        return MeanNegativeBinomial(log_mean, self.inverse_dispersion)

    def linear_terms(
        self, z: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the terms where the library size is learned.

        With :math:`u = \log \mu - \log \theta` they are

        .. math:: x (u - \log(1 + e^u)) - \theta \log(1 + e^u) +
            \log \frac{\Gamma(x + \theta)}{\Gamma(\theta) \, x!}
        """
        theta = self.inverse_dispersion.to(x)
        u = self.log_means(self.decoder(z).to(x)) - theta.log()
        rest = softplus(u)
        return u - rest, theta * rest, log_ways(x, theta)

    def cross_log_prob(
        self, z: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Returns log p(x | z) for every pair.

        Where the library size is learned, by matrix products. Where it is
        observed, the mean depends on the pair, and each dimension of a pair
        takes one logarithm; the gamma functions are taken once for each x.

        Args:
            z: Latents, `(M, P)`.
            x: Counts, `(B, D)`.
            observed: Which dimensions are summed, `(B, D)` booleans, for a
                learned library size.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        if self.library == "learned":
            return super().cross_log_prob(z, x, observed)
        theta = self.inverse_dispersion.to(x)
        size = x.sum(-1, keepdim=True).clamp(min=EMPTY)
        share = self.decoder(z).to(x).log_softmax(-1) - theta.log()
        linear = share @ x.T + (x * size.log() + log_ways(x, theta)).sum(-1)
        rows = max(1, PAIRS // x.numel())
        rest = [
            torch.einsum(
                "mbd,bd->mb",
                (part.exp().unsqueeze(1) * size).log1p_(),
                x + theta,
            )
            for part in share.split(rows)
        ]
        return linear - torch.cat(rest)


def log_ways(x: Tensor, theta: Tensor) -> Tensor:
    r"""Returns :math:`\log \Gamma(x + \theta) / (\Gamma(\theta) \, x!)`."""
    gammas = torch.lgamma(x + theta) - torch.lgamma(theta)
    return gammas - torch.lgamma(x + 1)


class MeanNegativeBinomial(TorchDistribution):
    """The negative binomial distribution of a mean and an inverse dispersion.

    Its sums cancel for large counts, and are taken in double precision.

    Args:
        log_mean: The log of the mean, of any shape.
        theta: The inverse dispersion, broadcast to that shape.
    """

    arg_constraints: ClassVar[Constraints] = {
        "log_mean": constraints.real,
        "theta": constraints.positive,
    }
    support = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, theta: Tensor):
        self.log_mean, self.theta = torch.broadcast_tensors(log_mean, theta)
        super().__init__(self.log_mean.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), in nats."""
        theta, x = self.theta.double(), value.double()
        u = self.log_mean.double() - theta.log()
        log_p = log_ways(x, theta) + x * u - (x + theta) * softplus(u)
        return log_p.to(self.log_mean)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        r"""The variance, :math:`\mu + \mu^2 / \theta`."""
        return self.mean + self.mean.square() / self.theta

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws counts: a Poisson's, whose rate is a gamma's draw."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            theta = self.theta.expand(shape)
            share = torch._standard_gamma(theta) / theta
            return torch.poisson(share * self.mean)

    def expand(
        self, batch_shape: Any, _instance: Any = None
    ) -> "MeanNegativeBinomial":
        """Returns it with a larger batch shape."""
        shape = torch.Size(batch_shape)
        log_mean, theta = self.log_mean.expand(shape), self.theta.expand(shape)
        return MeanNegativeBinomial(log_mean, theta)
