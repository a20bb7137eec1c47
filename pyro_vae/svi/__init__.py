"""One optimization step of any Pyro pair: Pyro's SVI, and its compiled twin."""

from pyro_vae.svi.compiled import CompiledSVI
from pyro_vae.svi.compiled_elbo import (
    CompiledRenyiELBO,
    CompiledTrace_ELBO,
    CompiledTraceEnum_ELBO,
    CompiledTraceGraph_ELBO,
    CompiledTraceMeanField_ELBO,
)
from pyro_vae.svi.eager import (
    NonFiniteLossError,
    find_nonfinite_site,
    make_svi,
)
from pyro_vae.svi.estimator import ReportingELBO, can_compile
from pyro_vae.svi.graphs import compile_graph
from pyro_vae.svi.optimizers import (
    clip_gradients,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from pyro_vae.svi.refusals import CompilationError, DynamicPairError
from pyro_vae.svi.shards import LostProcessError, Shards

__all__ = [
    "CompilationError",
    "CompiledRenyiELBO",
    "CompiledSVI",
    "CompiledTraceEnum_ELBO",
    "CompiledTraceGraph_ELBO",
    "CompiledTraceMeanField_ELBO",
    "CompiledTrace_ELBO",
    "DynamicPairError",
    "LostProcessError",
    "NonFiniteLossError",
    "ReportingELBO",
    "Shards",
    "can_compile",
    "clip_gradients",
    "compile_graph",
    "find_nonfinite_site",
    "load_optimizer_state",
    "make_svi",
    "optimizer_state",
    "set_learning_rate",
]
