"""How good the bound and the posterior are."""

from pyro_vae.evaluation.aggregate import Aggregate, check_aggregate
from pyro_vae.evaluation.annealing import Annealed, annealed_bound
from pyro_vae.evaluation.elbo import (
    Sums,
    assign,
    compile_sums,
    evaluate,
    evaluation_batch,
    evaluation_mode,
    sum_terms,
)
from pyro_vae.evaluation.gaps import (
    Gaps,
    default_method,
    estimate_elbo,
    gaps,
    posterior_kl,
)
from pyro_vae.evaluation.importance import (
    Importance,
    importance_bound,
    log_weights,
)
from pyro_vae.evaluation.log_marginal import (
    METHODS,
    SMALL,
    Marginal,
    log_marginal_likelihood,
    sum_states,
)
from pyro_vae.evaluation.quadrature import (
    Marginals,
    integrate,
    posterior_density,
)

__all__ = [
    "METHODS",
    "SMALL",
    "Aggregate",
    "Annealed",
    "Gaps",
    "Importance",
    "Marginal",
    "Marginals",
    "Sums",
    "annealed_bound",
    "assign",
    "check_aggregate",
    "compile_sums",
    "default_method",
    "estimate_elbo",
    "evaluate",
    "evaluation_batch",
    "evaluation_mode",
    "gaps",
    "importance_bound",
    "integrate",
    "log_marginal_likelihood",
    "log_weights",
    "posterior_density",
    "posterior_kl",
    "sum_states",
    "sum_terms",
]
