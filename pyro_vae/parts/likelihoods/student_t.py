"""The Student t likelihood, for real data with outliers."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.likelihoods.noise import MIN_NOISE_SCALE, NoiseLikelihood

MAX_DF = 1000.0  # above it the noise is a normal's
PAIRS = 10_000_000  # numbers held at a time by cross_log_prob
FACTORS = 8  # multiplied before a logarithm; a double holds their product


class StudentTLikelihood(NoiseLikelihood):
    r"""A Student t likelihood around the decoder's output.

    .. math:: p(x \mid z) = \prod_d
        \frac{\Gamma((\nu + 1) / 2)}{\Gamma(\nu / 2) \sqrt{\pi \nu} \, s_d}
        \left(1 + \frac{(x_d - f_d)^2}{\nu s_d^2}\right)^{-(\nu + 1) / 2},
        \quad f = f(z, w)

    Its tails are heavy, so that outliers move the decoder little. The degrees
    of freedom, nu, are learned between 1, below which there is no mean, and
    1000, above which the noise is a normal's; fixed noise fixes them, too.

    Args:
        decoder: The network f, mapping `(..., P)` to the locations `(..., D)`.
        noise: `shared`, `diagonal` or `fixed`, as of a `GaussianLikelihood`.
        noise_scale: The (initial) scale, s, in units of x: a number, or a
            tensor of shape `(D,)` for `fixed` and `diagonal`.
        min_scale: The lower bound of a learned scale, in units of x.
        df: The (initial) degrees of freedom.

    Raises:
        ValueError: If the noise is unknown, or a number out of its bounds.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation,
        H. Takahashi, T. Iwata, Y. Yamanaka, M. Yamada and S. Yagi, 2018.
    """

    df_logit: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        noise: str = "shared",
        noise_scale: float | Tensor = 1.0,
        min_scale: float = MIN_NOISE_SCALE,
        df: float = 4.0,
    ):
        super().__init__(decoder, noise, noise_scale, min_scale)
        if not 1 < df < MAX_DF:
            raise ValueError(
                f"df is {df}; expected degrees of freedom above 1, where the "
                f"mean exists, and below {MAX_DF:g}"
            )
        share = torch.tensor(math.log(df) / math.log(MAX_DF))
        if noise == "fixed":
            self.register_buffer("df_logit", share.logit(), persistent=False)
        else:
            self.df_logit = nn.Parameter(share.logit())

    @property
    def df(self) -> Tensor:
        """The degrees of freedom, nu, `()`."""
        return (math.log(MAX_DF) * self.df_logit.sigmoid()).exp()

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        return ExactStudentT(self.df, self.decoder(z), self.scale).to_event(1)

    def cross_log_prob(
        self, z: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Returns log p(x | z) for every pair.

        Of all dimensions one logarithm in eight is taken, of the product of
        eight: pass x in double precision, which holds such products.

        Args:
            z: Latents, `(M, P)`.
            x: Data, `(B, D)`.
            observed: Which dimensions are summed, `(B, D)` booleans; by
                default all.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        df, scale = self.df.double(), self.scale.double()
        unit = scale * df.sqrt()
        means, data = self.decoder(z).double() / unit, x.double() / unit
        seen = torch.ones_like(data) if observed is None else observed.to(data)
        log_volume = seen @ (scale.log() + log_beta(df)).expand(x.shape[-1])
        rows = max(1, PAIRS // (FACTORS * len(x)))
        sums = []
        for part in means.split(rows):
            total = data.new_zeros(len(part), len(data))
            columns = zip(
                *[t.split(FACTORS, -1) for t in (part, data, seen)], strict=True
            )
            for mean, value, is_seen in columns:
                square = (value - mean.unsqueeze(1)).square_()
                if observed is not None:
                    square *= is_seen
                total += square.add_(1).prod(-1).log_()
            sums.append(total)
        return (-0.5 * (df + 1) * torch.cat(sums) - log_volume).to(x)


def log_beta(df: Tensor) -> Tensor:
    """Returns the log of a unit Student t's volume, in double precision.

    float32 loses the difference of the gamma functions to cancellation.
    """
    df = df.double()
    gammas = torch.lgamma(0.5 * df) - torch.lgamma(0.5 * (df + 1))
    return gammas + 0.5 * (df * math.pi).log()


class ExactStudentT(dist.StudentT):
    """The Student t distribution, accurate for many degrees of freedom too."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        unit = (value - self.loc) / self.scale
        log_volume = log_beta(self.df).to(unit) + self.scale.log()
        power = torch.log1p(unit.square() / self.df)
        return -0.5 * (self.df + 1) * power - log_volume
