"""What is maximized, by name: the ELBO and its relatives."""

from pyro_vae.objectives.analytic import compute_kl, is_analytic
from pyro_vae.objectives.elbos import PathwiseELBO, WeightedELBO
from pyro_vae.objectives.make import OBJECTIVES, Objective, make_objective

__all__ = [
    "OBJECTIVES",
    "Objective",
    "PathwiseELBO",
    "WeightedELBO",
    "compute_kl",
    "is_analytic",
    "make_objective",
]
