"""Likelihoods p(x | z): modules whose `forward(z)` is a distribution.

Each maps latents `(..., P)` to a distribution of batch shape `(...)` and event
shape `(D,)`, and owns the decoder network, f(z, w) in the assignment.
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_vae.parts.contracts import Likelihood, feature_count

MIN_NOISE_SCALE = 0.01  # about 2.5 gray levels of 256
NOISES = ("shared", "fixed", "diagonal")
SERIES_BELOW = 0.1  # the logit below which the Taylor series is used


class GaussianLikelihood(Likelihood):
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

    log_scale: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        noise: str = "shared",
        noise_scale: float | Tensor = 1.0,
        min_scale: float = MIN_NOISE_SCALE,
    ):
        super().__init__(decoder)
        if noise not in NOISES:
            raise ValueError(
                f"noise is {noise!r}; expected one of {', '.join(NOISES)}"
            )
        floor = 0.0 if noise == "fixed" else min_scale
        scale = torch.as_tensor(noise_scale, dtype=torch.get_default_dtype())
        if not (scale > floor).all() or not scale.isfinite().all():
            raise ValueError(
                f"noise scale is {noise_scale}; expected it above {floor}"
            )
        if noise == "shared" and scale.dim():
            raise ValueError(
                f"noise scale has shape {tuple(scale.shape)}; expected one "
                "number for shared noise: use noise='diagonal'"
            )
        if noise == "diagonal" and not scale.dim():
            scale = scale.expand(feature_count(decoder, "out_features"))
        self.noise = noise
        self.min_scale = floor
        log_scale = (scale - floor).log().clone()
        if noise == "fixed":
            self.register_buffer("log_scale", log_scale, persistent=False)
        else:
            self.log_scale = nn.Parameter(log_scale)

    @property
    def scale(self) -> Tensor:
        """The noise's standard deviation in units of x, `()` or `(D,)`."""
        return self.min_scale + self.log_scale.exp()

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        return dist.Normal(self.decoder(z), self.scale).to_event(1)

    def cross_log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        r"""Returns log p(x | z) for every pair, by one matrix product.

        .. math:: \|x - f\|^2 = \|x\|^2 - 2 x^T f + \|f\|^2

        with x and f in units of the noise. The sum loses digits to
        cancellation: pass x in double precision, in which the product is then
        computed.

        Args:
            z: Latents, `(M, P)`.
            x: Images, `(B, D)`.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        scale = self.scale.to(x)
        mean, x = self.decoder(z).to(x) / scale, x / scale
        squares = mean.square().sum(-1, keepdim=True) + x.square().sum(-1)
        log_volume = (scale.log() + 0.5 * math.log(2 * math.pi)).expand(
            x.shape[-1]
        )
        return mean @ x.T - 0.5 * squares - log_volume.sum()

    def extra_repr(self) -> str:
        """Returns the part of the module's repr that names the noise."""
        return f"noise={self.noise!r}, min_scale={self.min_scale}"


class BernoulliLikelihood(Likelihood):
    r"""A Bernoulli likelihood whose log-odds are the decoder's output.

    .. math:: p(x \mid z) = \prod_d \sigma(f_d)^{x_d}
        (1 - \sigma(f_d))^{1 - x_d}, \quad f = f(z, w)

    It is a likelihood of binary images. It also takes gray images, as much of
    the literature does, but the result is then no log-likelihood: it is not
    normalized over gray images.

    Args:
        decoder: The network f, mapping `(..., P)` to the logits `(..., D)`.
    """

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        logits = self.decoder(z)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)

    def cross_log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        r"""Returns log p(x | z) for every pair, by one matrix product.

        .. math:: \log p(x \mid z) = x^T f - \sum_d \log(1 + e^{f_d})

        The sum loses digits to cancellation: pass x in double precision, in
        which the product is then computed.

        Args:
            z: Latents, `(M, P)`.
            x: Images, `(B, D)`.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        logits = self.decoder(z).to(x)
        return logits @ x.T - softplus(logits).sum(-1, keepdim=True)


class ContinuousBernoulliLikelihood(Likelihood):
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

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        return ExactContinuousBernoulli(logits=self.decoder(z)).to_event(1)

    def cross_log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        r"""Returns log p(x | z) for every pair, by one matrix product.

        .. math:: \log p(x \mid z) = x^T f - \sum_d \log(1 + e^{f_d})
            - \log C(f_d)

        The sum loses digits to cancellation: pass x in double precision, in
        which the product is then computed.

        Args:
            z: Latents, `(M, P)`.
            x: Images, `(B, D)`.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        logits = self.decoder(z).to(x)
        log_volume = softplus(logits) - log_normalizer(logits)
        return logits @ x.T - log_volume.sum(-1, keepdim=True)


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
