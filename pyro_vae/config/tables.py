"""The tables of variants by the choice that they fill, and their names."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from pyro_vae.config.conditions import CONDITIONS
from pyro_vae.config.networks import NETWORKS
from pyro_vae.config.variant import Table
from pyro_vae.config.variants import (
    BASELINES,
    GRADIENTS,
    GUIDES,
    INFERENCES,
    LIKELIHOODS,
    OBJECTIVES,
    PRIORS,
)

TABLES: dict[str, Table] = {
    "prior": PRIORS,
    "guide": GUIDES,
    "gradient": GRADIENTS,
    "baseline": BASELINES,
    "inference": INFERENCES,
    "likelihood": LIKELIHOODS,
    "network": NETWORKS,
    "condition": CONDITIONS,
    "objective": OBJECTIVES,
}

# The likelihoods of counts, which have a library size.
COUNTS = tuple(n for n, row in LIKELIHOODS.items() if "library" in row.uses)

# The types of the choices: their names are the tables' keys.
if TYPE_CHECKING:
    PriorName: TypeAlias = str
    GuideName: TypeAlias = str
    GradientName: TypeAlias = str
    BaselineName: TypeAlias = str
    InferenceName: TypeAlias = str
    LikelihoodName: TypeAlias = str
    NetworkName: TypeAlias = str
    ConditionName: TypeAlias = str
    ObjectiveName: TypeAlias = str
else:
    PriorName = Literal[tuple(PRIORS)]
    GuideName = Literal[("auto", *GUIDES)]
    GradientName = Literal[("auto", *GRADIENTS)]
    BaselineName = Literal[tuple(BASELINES)]
    InferenceName = Literal[tuple(INFERENCES)]
    LikelihoodName = Literal[tuple(LIKELIHOODS)]
    NetworkName = Literal[tuple(NETWORKS)]
    ConditionName = Literal[tuple(CONDITIONS)]
    ObjectiveName = Literal[tuple(OBJECTIVES)]


def resolve(prior: str, choice: str, name: str) -> str:
    """Returns the variant that a name means: `auto` is what fits the prior.

    Args:
        prior: The name of the prior.
        choice: `guide` or `gradient`.
        name: The name of a variant, or `auto`.
    """
    return PRIORS[prior].goes_with[choice][0] if name == "auto" else name
