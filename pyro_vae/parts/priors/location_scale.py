"""Priors with independent dimensions, centered at zero."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.contracts import Prior
from pyro_vae.parts.priors.parameters import (
    MIN_SCALE,
    check_latent_dim,
    constrain_scale,
    unconstrain_scale,
)


class LocationScale(Prior):
    """A prior with its center at zero and a scale for each dimension.

    A fixed scale is a buffer, so that `.to(device)` moves it, and is not saved.

    Args:
        latent_dim: P, the number of latent dimensions.
        scale: The scale of every dimension, in units of z.
        learn_scale: Whether to learn a scale for each dimension, from there.

    Raises:
        ValueError: If `latent_dim` is below 1 or `scale` is not positive.
    """

    loc: Tensor
    fixed_scale: Tensor

    def __init__(
        self, latent_dim: int, scale: float = 1.0, learn_scale: bool = False
    ):
        super().__init__()
        check_latent_dim(latent_dim)
        floor = MIN_SCALE if learn_scale else 0.0
        if not scale > floor:
            raise ValueError(
                f"prior scale is {scale}; expected a positive number"
                + f" above {floor}, to be learned" * learn_scale
            )
        self.learn_scale = learn_scale
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        if learn_scale:
            self.unconstrained_scale = nn.Parameter(
                torch.full((latent_dim,), unconstrain_scale(scale))
            )
        else:
            fixed = torch.full((latent_dim,), float(scale))
            self.register_buffer("fixed_scale", fixed, persistent=False)

    @property
    def scale(self) -> Tensor:
        """The scale of each dimension, `(P,)`, in units of z."""
        if self.learn_scale:
            return constrain_scale(self.unconstrained_scale)
        return self.fixed_scale


class NormalPrior(LocationScale):
    r"""The standard normal prior.

    .. math:: p(z) = N(z \mid 0, I)

    A prior of another scale would give the same model: the first layer of the
    decoder and the last layer of the encoder absorb it.

    Args:
        latent_dim: P, the number of latent dimensions.

    Raises:
        ValueError: If `latent_dim` is below 1.
    """

    def __init__(self, latent_dim: int):
        super().__init__(latent_dim)

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class LaplacePrior(LocationScale):
    r"""Independent Laplace priors, centered at zero.

    .. math:: p(z) = \prod_p \frac{1}{2 b} \exp(-|z_p| / b)

    Args:
        latent_dim: P, the number of latent dimensions.
        scale: b; the standard deviation is :math:`\sqrt{2} b`.
        learn_scale: Whether to learn a b for each dimension, from there.

    Raises:
        ValueError: If `latent_dim` is below 1 or `scale` is not positive.
    """

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


class LogisticPrior(LocationScale):
    r"""Independent logistic priors, centered at zero.

    .. math:: p(z) = \prod_p \frac{1}{4 s} \operatorname{sech}^2
        \left( \frac{z_p}{2 s} \right)

    Args:
        latent_dim: P, the number of latent dimensions.
        scale: s; the standard deviation is :math:`\pi s / \sqrt{3}`.
        learn_scale: Whether to learn an s for each dimension, from there.

    Raises:
        ValueError: If `latent_dim` is below 1 or `scale` is not positive.
    """

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        return dist.Logistic(self.loc, self.scale).to_event(1)


class StudentTPrior(LocationScale):
    r"""Independent Student t priors, centered at zero: heavy tails.

    .. math:: p(z) = \prod_p \frac{\Gamma((\nu + 1) / 2)}
        {\Gamma(\nu / 2) \sqrt{\pi \nu} s}
        \left( 1 + \frac{z_p^2}{\nu s^2} \right)^{-(\nu + 1) / 2}

    Args:
        latent_dim: P, the number of latent dimensions.
        df: The degrees of freedom :math:`\nu`. At 1 this is the Cauchy
            distribution, at infinity the normal; the variance is finite
            above 2.
        scale: s, in units of z.
        learn_scale: Whether to learn an s for each dimension, from there.

    Raises:
        ValueError: If `latent_dim` is below 1, or `df` or `scale` is not
            positive.
    """

    def __init__(
        self,
        latent_dim: int,
        df: float = 4.0,
        scale: float = 1.0,
        learn_scale: bool = False,
    ):
        super().__init__(latent_dim, scale, learn_scale)
        if not df > 0:
            raise ValueError(f"df is {df}; expected a positive number")
        self.df = df

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        return dist.StudentT(self.df, self.loc, self.scale).to_event(1)
