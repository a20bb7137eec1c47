"""Distributions that Pyro lacks, and questions that any distribution answers.

Discrete latents come in two kinds, both `DiscreteLatents`: `OneHots`, whose z
is discrete as a whole, and `NormalMixture`, a continuous z behind a discrete
component. The functions answer for every distribution, so that no other module
has to ask which kind it has.
"""

from pyro_vae.parts.distributions.detached import Detached
from pyro_vae.parts.distributions.discrete import (
    MAX_STATES,
    DiscreteLatents,
    WeightedDraws,
    check_num_states,
    declare_site,
)
from pyro_vae.parts.distributions.normal_mixture import NormalMixture
from pyro_vae.parts.distributions.one_hots import OneHots, RelaxedOneHots
from pyro_vae.parts.distributions.questions import (
    center,
    count_states,
    declare_latents,
    detach_draws,
    log_prob_component,
    most_probable_state,
    observe_component,
    weighted_draws,
)

__all__ = [
    "MAX_STATES",
    "Detached",
    "DiscreteLatents",
    "NormalMixture",
    "OneHots",
    "RelaxedOneHots",
    "WeightedDraws",
    "center",
    "check_num_states",
    "count_states",
    "declare_latents",
    "declare_site",
    "detach_draws",
    "log_prob_component",
    "most_probable_state",
    "observe_component",
    "weighted_draws",
]
