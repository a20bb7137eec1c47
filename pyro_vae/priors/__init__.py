"""Priors p(z): modules whose `forward()` returns a distribution.

Each has batch shape `()` and event shape `(P,)`, P the latent dimension.
"""

from pyro_vae.priors.flow import FlowPrior
from pyro_vae.priors.location_scale import (
    Laplace,
    Logistic,
    StandardNormal,
    StudentT,
)
from pyro_vae.priors.mixtures import CategoricalPrior, MixturePrior
from pyro_vae.priors.vamp import VampPrior

__all__ = [
    "CategoricalPrior",
    "FlowPrior",
    "Laplace",
    "Logistic",
    "MixturePrior",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]
