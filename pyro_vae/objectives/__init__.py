"""What is maximised, by name: the ELBO and its relatives."""

from pyro_vae.objectives.analytic import is_analytic, list_analytic_pairs
from pyro_vae.objectives.choices import OBJECTIVES, make_objective
from pyro_vae.objectives.estimators import PathwiseELBO, WeightedELBO

__all__ = [
    "OBJECTIVES",
    "PathwiseELBO",
    "WeightedELBO",
    "is_analytic",
    "list_analytic_pairs",
    "make_objective",
]
