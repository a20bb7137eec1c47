"""The noise of a likelihood around the decoder's output: its scale, Sigma."""

from abc import ABC

import torch
from torch import Tensor, nn

from pyro_vae.parts.contracts import Likelihood, feature_count

MIN_NOISE_SCALE = 0.01  # about 2.5 gray levels of 256
NOISES = ("shared", "fixed", "diagonal")


class NoiseLikelihood(Likelihood, ABC):
    r"""A likelihood of a location, the decoder's output, and a scale.

    .. math:: s = s_{\min} + e^{\text{log\_scale}}

    Args:
        decoder: The network f, mapping `(..., P)` to the locations `(..., D)`.
        noise: `shared`, one learned scale for all D dimensions; `diagonal`, a
            learned scale for each dimension; `fixed`, a scale that is not
            learned.
        noise_scale: The (initial) scale in units of x: a number, or a tensor of
            shape `(D,)` for `fixed` and `diagonal`.
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
        """The noise's scale in units of x, `()` or `(D,)`."""
        return self.min_scale + self.log_scale.exp()

    def extra_repr(self) -> str:
        """Returns the part of the module's repr that names the noise."""
        return f"noise={self.noise!r}, min_scale={self.min_scale}"
