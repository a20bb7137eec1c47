"""One optimisation step: Pyro's SVI, and its compiled twin."""

from pyro_vae.svi.compiled import LOSSES, CompiledSVI, can_compile
from pyro_vae.svi.eager import (
    NonFiniteLossError,
    find_nonfinite_site,
    make_svi,
)
from pyro_vae.svi.graphs import CompilationError, DynamicPairError, compile
from pyro_vae.svi.optimizers import (
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)

__all__ = [
    "LOSSES",
    "CompilationError",
    "CompiledSVI",
    "DynamicPairError",
    "NonFiniteLossError",
    "can_compile",
    "compile",
    "find_nonfinite_site",
    "load_optimizer_state",
    "make_svi",
    "optimizer_state",
    "set_learning_rate",
]
