"""What is maximised, by name: the ELBO and its relatives."""

from pyro_vae.objectives.analytic import is_analytic, list_analytic_pairs
from pyro_vae.objectives.annealed import AnnealedObjective
from pyro_vae.objectives.choices import (
    OBJECTIVES,
    choose_objective,
    make_objective,
)
from pyro_vae.objectives.estimators import PathwiseELBO, WeightedELBO

__all__ = [
    "OBJECTIVES",
    "AnnealedObjective",
    "PathwiseELBO",
    "WeightedELBO",
    "choose_objective",
    "is_analytic",
    "list_analytic_pairs",
    "make_objective",
]
