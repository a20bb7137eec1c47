"""Priors p(z): modules whose `forward()` returns a distribution.

Each has batch shape `()` and event shape `(P,)`, P the latent dimension.
"""

from pyro_vae.parts.priors.flow import FlowPrior
from pyro_vae.parts.priors.location_scale import (
    LaplacePrior,
    LogisticPrior,
    NormalPrior,
    StudentTPrior,
)
from pyro_vae.parts.priors.mixtures import CategoricalPrior, MixturePrior
from pyro_vae.parts.priors.vamp import VampPrior

__all__ = [
    "CategoricalPrior",
    "FlowPrior",
    "LaplacePrior",
    "LogisticPrior",
    "MixturePrior",
    "NormalPrior",
    "StudentTPrior",
    "VampPrior",
]
