"""How good the bound and the posterior are."""

from pyro_vae.evaluation.aggregate import Aggregate, check_aggregate
from pyro_vae.evaluation.annealing import Annealed, annealed_bound
from pyro_vae.evaluation.by_label import (
    by_label,
    place_labels,
    split_labels,
)
from pyro_vae.evaluation.elbo import (
    Sums,
    assign,
    compile_sums,
    estimate_elbo,
    evaluation_batch,
    evaluation_mode,
    has_numbered_states,
    mean_elbo_terms,
    sum_terms,
    zip_batches,
)
from pyro_vae.evaluation.gaps import Gaps, posterior_kl, split_gap
from pyro_vae.evaluation.importance import importance_bound, log_weights
from pyro_vae.evaluation.log_marginal import (
    METHODS,
    Effort,
    Method,
    default_method,
    find_method,
    list_methods,
    log_marginal_likelihood,
    sum_states,
    warn_of_few,
)
from pyro_vae.evaluation.quadrature import (
    check_tolerance,
    integrate,
    posterior_density,
)
from pyro_vae.evaluation.result import Latents, LogMarginal

__all__ = [
    "METHODS",
    "Aggregate",
    "Annealed",
    "Effort",
    "Gaps",
    "Latents",
    "LogMarginal",
    "Method",
    "Sums",
    "annealed_bound",
    "assign",
    "by_label",
    "check_aggregate",
    "check_tolerance",
    "compile_sums",
    "default_method",
    "estimate_elbo",
    "evaluation_batch",
    "evaluation_mode",
    "find_method",
    "has_numbered_states",
    "importance_bound",
    "integrate",
    "list_methods",
    "log_marginal_likelihood",
    "log_weights",
    "mean_elbo_terms",
    "place_labels",
    "posterior_density",
    "posterior_kl",
    "split_gap",
    "split_labels",
    "sum_states",
    "sum_terms",
    "warn_of_few",
    "zip_batches",
]
