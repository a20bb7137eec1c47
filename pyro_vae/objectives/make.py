"""Objectives by name, and what each can take."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.objectives import bounds
from pyro_vae.objectives.analytic import compute_kl
from pyro_vae.objectives.elbos import PathwiseELBO, WeightedELBO
from pyro_vae.objectives.terms import Latent
from pyro_vae.parts.distributions import center
from pyro_vae.parts.gradient_estimators import BaselineELBO, Pathwise
from pyro_vae.svi import Shards
from pyro_vae.vae import VAE

LARGEST = 1e18  # whose products with log-weights float32 still holds


@dataclass(frozen=True)
class Objective:
    """One way to say what is maximized.

    Attributes:
        bound: Returns the bound, a function of a minibatch's terms, for an
            order alpha.
        uses_alpha: Whether alpha matters.
        dimension_kl: The KL by latent dimension, where free bits are possible.
        is_closed_form: Whether the KL must have a closed form.
    """

    bound: Callable[[float], bounds.Bound]
    uses_alpha: bool = False
    dimension_kl: bounds.DimensionKL | None = None
    is_closed_form: bool = False


OBJECTIVES: dict[str, Objective] = {
    "elbo": Objective(
        lambda alpha: bounds.elbo, dimension_kl=bounds.sampled_dimension_kl
    ),
    "analytic-kl": Objective(
        lambda alpha: bounds.analytic_elbo,
        dimension_kl=bounds.analytic_dimension_kl,
        is_closed_form=True,
    ),
    "iwae": Objective(lambda alpha: partial(bounds.renyi, alpha=0.0)),
    "renyi": Objective(
        lambda alpha: partial(bounds.renyi, alpha=alpha), uses_alpha=True
    ),
    "stl": Objective(lambda alpha: bounds.stl),
    "dreg": Objective(lambda alpha: bounds.dreg),
}


def make_objective(
    vae: VAE,
    name: str = "elbo",
    num_particles: int = 1,
    alpha: float = 0.5,
    beta: Tensor | float = 1.0,
    free_bits: float = 0.0,
    shards: Shards | None = None,
) -> ELBO:
    """Makes the Pyro estimator whose loss is minus the objective of a VAE.

    Plain `elbo` is the estimator that belongs to the VAE's gradient:
    `Trace_ELBO`, `TraceEnum_ELBO` or `TraceGraph_ELBO`. The others, and an
    ELBO with another KL, report the true ELBO of the last minibatch, too.

    Args:
        vae: The VAE.
        name: One of `OBJECTIVES`. All but `elbo` need the pathwise gradient.
        num_particles: S, the samples of z per image, drawn as one tensor
            unless there is a baseline.
        alpha: The order of `renyi`; not 1, where it is the ELBO.
        beta: The weight of the KL, positive; a tensor may be changed between
            steps.
        free_bits: The nats of KL that each latent dimension has for free.
        shards: The processes that share each minibatch; by default this one
            has all of it.

    Raises:
        ValueError: If the objective cannot take the VAE or the options.
    """
    shards = shards or Shards()
    objective = _check(vae, name, alpha, free_bits)
    _check_numbers(num_particles, alpha, beta, free_bits)
    is_whole = not torch.is_tensor(beta) and beta == 1 and not free_bits
    if name == "elbo" and is_whole:
        return _make_plain(vae, num_particles, shards)
    if not isinstance(vae.guide.gradient, Pathwise):
        plain = _make_plain(vae, num_particles, shards)
        return WeightedELBO(plain, vae, beta)
    elbo, bound = bounds.elbo, objective.bound(alpha)
    if objective.is_closed_form:
        elbo = bounds.analytic_elbo
        _try(vae, lambda latent: compute_kl(latent.q, latent.p))
    if free_bits and objective.dimension_kl is not None:
        kl = objective.dimension_kl
        bound = partial(
            bounds.free_bits, nats=free_bits, kl=kl, pool=shards.pool
        )
        _try(vae, kl)
    estimator = PathwiseELBO(bound, num_particles, beta, elbo)
    # A graph has no place for a mean over the processes.
    estimator.can_be_compiled = not free_bits or shards.is_alone
    return estimator


def _make_plain(vae: VAE, num_particles: int, shards: Shards) -> ELBO:
    """Makes the estimator of Pyro's that belongs to the VAE's gradient."""
    loss = vae.guide.gradient.loss
    estimator = loss(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1 and loss is not BaselineELBO,
        max_plate_nesting=1,  # the plate of the images
    )
    if isinstance(estimator, BaselineELBO):
        estimator.total = shards.total
    return estimator


def _check(vae: VAE, name: str, alpha: float, free_bits: float) -> Objective:
    """Returns the objective of that name, if it can take the rest."""
    if name not in OBJECTIVES:
        raise ValueError(
            f"the objective is {name!r}; expected one of "
            f"{', '.join(OBJECTIVES)}"
        )
    objective = OBJECTIVES[name]
    if objective.uses_alpha and alpha == 1:
        raise ValueError(
            "alpha is 1, where the Renyi bound is the ELBO; expected another "
            "number: use objective=elbo"
        )
    if free_bits and objective.dimension_kl is None:
        able = [key for key, row in OBJECTIVES.items() if row.dimension_kl]
        raise ValueError(
            f"free_bits is {free_bits} with objective={name}; expected "
            f"{' or '.join(able)}, which hold a KL"
        )
    gradient = vae.guide.gradient
    if not isinstance(gradient, Pathwise) and (name != "elbo" or free_bits):
        what = f"the objective is {name!r}"
        if name == "elbo":
            what = f"free_bits is {free_bits}"
        raise ValueError(
            f"{what} with the gradient {type(gradient).__name__}; expected "
            "Pathwise and continuous latents: use plain objective=elbo"
        )
    return objective


def _check_numbers(
    num_particles: int, alpha: float, beta: Tensor | float, free_bits: float
) -> None:
    """Refuses numbers that no objective can be computed with."""
    if type(num_particles) is not int or num_particles < 1:
        raise ValueError(
            f"num_particles is {num_particles!r}; expected a whole number of "
            "at least 1"
        )
    for name, value, lowest in (
        ("alpha", alpha, -LARGEST),
        ("beta", 1 if torch.is_tensor(beta) else beta, 0),
        ("free_bits", free_bits, 0),
    ):
        if not lowest <= value <= LARGEST:
            raise ValueError(
                f"{name} is {value!r}; expected a number from {lowest:g} to "
                f"{LARGEST:g}"
            )


@torch.no_grad()
def _try(vae: VAE, kl: Callable[[Latent], Tensor]) -> None:
    """Refuses a pair before its first step, if its images' size is known."""
    if vae.recipe is None:
        return
    like = next(vae.parameters())
    q = vae.infer(like.new_zeros(1, vae.recipe["data_dim"]))
    nothing = like.new_zeros(1, 1)
    kl(Latent(q, vae.prior(), center(q), nothing, nothing))
