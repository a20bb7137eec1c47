"""The discretized logistic likelihood, for 8-bit pixels."""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import embedding_bag, softplus

from pyro_vae.parts.contracts import pairwise_log_prob
from pyro_vae.parts.likelihoods.noise import NoiseLikelihood
from pyro_vae.parts.likelihoods.supports import (
    NUM_LEVELS,
    count_levels,
    levels,
)

MIN_LOGISTIC_SCALE = 1e-3  # about a quarter of a level
TOP = NUM_LEVELS - 1
TABLE = 10_000_000  # numbers of a table held at a time by cross_log_prob


class DiscretizedLogisticLikelihood(NoiseLikelihood):
    r"""A probability of the 256 levels of 8-bit pixels.

    .. math:: p(x \mid z) = \prod_d
        \sigma\left(\frac{x_d + h - f_d}{s_d}\right) -
        \sigma\left(\frac{x_d - h - f_d}{s_d}\right),
        \quad h = \frac{1}{510}, \quad f = f(z, w)

    for x in 0, 1/255, ..., 1, where the lowest and the highest level take the
    whole tails. It is a logistic distribution, rounded to the levels: a true
    probability, at most 1, so that minus its log in bits is the length of a
    lossless code, and its ELBO compares with that of every other probability
    of 8-bit pixels.

    Args:
        decoder: The network f, mapping `(..., P)` to the locations `(..., D)`,
            which need not lie in [0, 1].
        noise: `shared`, `diagonal` or `fixed`, as of a `GaussianLikelihood`.
        noise_scale: The (initial) scale, s, in units of x: a number, or a
            tensor of shape `(D,)` for `fixed` and `diagonal`.
        min_scale: The lower bound of a learned scale, in units of x.

    Raises:
        ValueError: If the noise is unknown, or if a scale is not above its
            lower bound or has the wrong shape.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow,
        D. P. Kingma et al., 2016. PixelCNN++, T. Salimans, A. Karpathy,
        X. Chen and D. P. Kingma, 2017.
    """

    support = levels

    def __init__(
        self,
        decoder: nn.Module,
        noise: str = "shared",
        noise_scale: float | Tensor = 0.1,
        min_scale: float = MIN_LOGISTIC_SCALE,
    ):
        super().__init__(decoder, noise, noise_scale, min_scale)

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        return DiscretizedLogistic(self.decoder(z), self.scale).to_event(1)

    def cross_log_prob(
        self, z: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Returns log p(x | z) for every pair.

        For more images than levels, each latent's log-probabilities of all
        levels are tabled, and an image sums those of its pixels.

        Args:
            z: Latents, `(M, P)`.
            x: Images, `(B, D)`.
            observed: Which dimensions are summed, `(B, D)` booleans; by
                default all.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        if len(x) <= NUM_LEVELS:
            return pairwise_log_prob(self, z, x, observed)
        size = x.shape[-1]
        every = torch.arange(NUM_LEVELS, device=x.device).to(x) / TOP
        first = NUM_LEVELS * torch.arange(size, device=x.device)
        places, scale = count_levels(x) + first, self.scale.to(x)
        weights = None if observed is None else observed.to(x)
        parts = []
        for part in z.split(max(1, TABLE // (size * NUM_LEVELS))):
            loc = self.decoder(part).to(x).movedim(-1, 0).unsqueeze(1)
            spread = scale.expand(size).view(-1, 1, 1)
            p = DiscretizedLogistic(loc, spread)
            table = p.log_prob(every.view(1, -1, 1))  # (D, levels, M)
            table = table.flatten(0, 1)
            sums = embedding_bag(
                places, table, mode="sum", per_sample_weights=weights
            )
            parts.append(sums.T)
        return torch.cat(parts)


class DiscretizedLogistic(TorchDistribution):
    """A logistic distribution, rounded to the levels 0, 1/255, ..., 1.

    Args:
        loc: The logistic's location, of any shape.
        scale: Its scale, broadcast to that shape.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = levels

    def __init__(self, loc: Tensor, scale: Tensor):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log p(x), in nats.

        .. math:: \log(\sigma(a) - \sigma(b)) = \log \sigma(a) +
            \log \sigma(-b) + \log(1 - e^{b - a})

        which is exact in the far tails, too.
        """
        half = 0.5 / TOP
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        is_lowest, is_highest = value < half, value > 1 - half
        zero = torch.zeros_like(upper)
        below_upper = torch.where(is_highest, zero, softplus(-upper))
        above_lower = torch.where(is_lowest, zero, softplus(lower))
        between = torch.where(is_lowest | is_highest, zero, width)
        return between - below_upper - above_lower

    @property
    def mean(self) -> Tensor:
        r"""The mean, a sum over the levels but the lowest.

        .. math:: \frac{1}{255} \sum_{k=1}^{255} p(x \ge k / 255)
        """
        total = torch.zeros_like(self.loc)
        for level in range(1, NUM_LEVELS):
            edge = (level - 0.5) / TOP
            total = total + ((self.loc - edge) / self.scale).sigmoid()
        return total / TOP

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws levels: a logistic's draws, rounded."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            uniform = torch.rand(
                shape, dtype=self.loc.dtype, device=self.loc.device
            )
            x = self.loc + self.scale * uniform.logit(eps=1e-7)
            return (x * TOP).round().clamp(0, TOP) / TOP

    def expand(
        self, batch_shape: Any, _instance: Any = None
    ) -> "DiscretizedLogistic":
        """Returns it with a larger batch shape."""
        shape = torch.Size(batch_shape)
        return DiscretizedLogistic(
            self.loc.expand(shape), self.scale.expand(shape)
        )
