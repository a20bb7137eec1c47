"""How good the bound and the posterior are."""

from pyro_vae.evaluation.elbo import (
    Sums,
    assign,
    compile_sums,
    evaluate,
    evaluation_batch,
    evaluation_mode,
    sum_terms,
)

__all__ = [
    "Sums",
    "assign",
    "compile_sums",
    "evaluate",
    "evaluation_batch",
    "evaluation_mode",
    "sum_terms",
]
