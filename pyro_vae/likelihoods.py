"""Likelihoods p(x | z): modules whose `forward(z)` is a distribution.

Each maps latents `(..., P)` to a distribution of batch shape `(...)` and event
shape `(D,)`, and owns the decoder network, f(z, w) of the assignment.
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

MIN_NOISE_SCALE = 0.01  # about 2.5 grey levels of 256
NOISES = ("shared", "fixed", "diagonal")


class Gaussian(nn.Module):
    r"""A Gaussian likelihood whose mean is the decoder's output.

    .. math:: p(x \mid z) = N(x \mid f(z, w), \Sigma), \quad
        \Sigma = \operatorname{diag}(s^2), \quad
        s = s_{\min} + e^{\text{log\_scale}}

    Sigma belongs to Theta and is learned, unless it is fixed. The lower bound
    keeps a diagonal noise from collapsing on pixels that are always 0: there
    the likelihood grows without limit as the scale falls, so the ELBO of a
    `diagonal` fit depends on `min_scale`, and comparing it with another noise
    says little.

    Args:
        decoder: f, mapping `(..., P)` to `(..., D)`.
        noise: `shared`, one learned scale for all D dimensions; `diagonal`, a
            learned scale for each; `fixed`, not learned.
        noise_scale: The (initial) scale, a standard deviation in units of x:
            a number, or a tensor of shape `(D,)` for `fixed` and `diagonal`.
        min_scale: The lower bound of a learned scale.

    Raises:
        ValueError: For an unknown noise, or a scale that is not above its
            lower bound, or of the wrong shape.
    """

    def __init__(
        self,
        decoder: nn.Module,
        noise: str = "shared",
        noise_scale: float | Tensor = 1.0,
        min_scale: float = MIN_NOISE_SCALE,
    ):
        super().__init__()
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
            scale = scale.expand(_out_features(decoder))
        self.decoder = decoder
        self.noise = noise
        self.min_scale = floor
        log_scale = (scale - floor).log().clone()
        if noise == "fixed":
            self.register_buffer("log_scale", log_scale, persistent=False)
        else:
            self.log_scale = nn.Parameter(log_scale)

    @property
    def scale(self) -> Tensor:
        """The noise's standard deviation, `()` or `(D,)`, in units of x."""
        return self.min_scale + self.log_scale.exp()

    def forward(self, z: Tensor) -> dist.Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        return dist.Normal(self.decoder(z), self.scale).to_event(1)

    def cross_log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        r"""Returns log p(x | z) for every pair, by one matrix product.

        .. math:: \|x - f\|^2 = \|x\|^2 - 2 x^T f + \|f\|^2

        in units of the noise. The differences lose digits to cancellation:
        give x in double precision, in which the product then is.

        Args:
            z: Latents, `(M, P)`.
            x: Images, `(B, D)`.

        Returns:
            `(M, B)`, in nats.
        """
        scale = self.scale.to(x)
        mean, x = self.decoder(z).to(x) / scale, x / scale
        squares = mean.square().sum(-1, keepdim=True) + x.square().sum(-1)
        log_volume = (scale.log() + 0.5 * math.log(2 * math.pi)).expand(
            x.shape[-1]
        )
        return mean @ x.T - 0.5 * squares - log_volume.sum()

    def extra_repr(self) -> str:
        return f"noise={self.noise!r}, min_scale={self.min_scale}"


def _out_features(decoder: nn.Module) -> int:
    if not hasattr(decoder, "out_features"):
        raise ValueError(
            f"the decoder {type(decoder).__name__} does not tell its "
            "out_features; expected noise_scale as a tensor of shape (D,)"
        )
    return decoder.out_features
