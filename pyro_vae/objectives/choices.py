"""Objectives by name, and what each can take."""

from collections.abc import Callable
from functools import partial

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.config import Config
from pyro_vae.distributions import center
from pyro_vae.gradients import BaselineELBO, Pathwise
from pyro_vae.objectives import bounds
from pyro_vae.objectives.analytic import compute_kl
from pyro_vae.objectives.estimators import PathwiseELBO, WeightedELBO
from pyro_vae.objectives.terms import Latent
from pyro_vae.vae import VAE

OBJECTIVES: dict[str, Callable[[float], bounds.Bound]] = {  # of alpha
    "elbo": lambda alpha: bounds.elbo,
    "analytic-kl": lambda alpha: bounds.analytic_elbo,
    "iwae": lambda alpha: partial(bounds.renyi, alpha=0.0),
    "renyi": lambda alpha: partial(bounds.renyi, alpha=alpha),
    "stl": lambda alpha: bounds.stl,
    "dreg": lambda alpha: bounds.dreg,
}
DIMENSION_KLS = {  # the objectives that can have free bits
    "elbo": bounds.sampled_dimension_kl,
    "analytic-kl": bounds.analytic_dimension_kl,
}


def make_objective(
    vae: VAE,
    name: str = "elbo",
    num_particles: int = 1,
    alpha: float = 0.5,
    beta: Tensor | float = 1.0,
    free_bits: float = 0.0,
) -> ELBO:
    """Makes the Pyro estimator whose loss is minus the objective of a VAE.

    Plain `elbo` is the estimator that belongs to the VAE's gradient:
    `Trace_ELBO`, `TraceEnum_ELBO` or `TraceGraph_ELBO`. The others, and an
    ELBO with another KL, have the true ELBO of the last minibatch as their
    `elbo`.

    Args:
        vae: The VAE.
        name: One of `OBJECTIVES`. All but `elbo` need the pathwise gradient.
        num_particles: S, the samples of z per image, drawn as one tensor
            unless there is a baseline.
        alpha: The order of `renyi`; not 1, which is the ELBO.
        beta: Weight of the KL, positive; a tensor may be changed between
            steps.
        free_bits: The nats of KL that each latent dimension has for free.

    Raises:
        ValueError: If the objective cannot take the VAE or the options.
    """
    _check(vae, name, alpha, free_bits)
    is_whole = not torch.is_tensor(beta) and beta == 1 and not free_bits
    if name == "elbo" and is_whole:
        return _make_plain(vae, num_particles)
    if not isinstance(vae.guide.gradient, Pathwise):
        return WeightedELBO(_make_plain(vae, num_particles), vae, beta)
    elbo, bound = bounds.elbo, OBJECTIVES[name](alpha)
    if name == "analytic-kl":
        elbo = bounds.analytic_elbo
        _try(vae, lambda latent: compute_kl(latent.q, latent.p))
    if free_bits:
        kl = DIMENSION_KLS[name]
        bound = partial(bounds.free_bits, nats=free_bits, kl=kl)
        _try(vae, kl)
    return PathwiseELBO(bound, num_particles, beta, elbo)


def choose_objective(config: Config, vae: VAE) -> ELBO:
    """Makes a configuration's objective.

    With a warm-up its `beta` is a tensor, for the fit to set at each step.
    """
    beta = config.beta
    if config.warmup:
        beta = next(vae.parameters()).new_tensor(beta)
    return make_objective(
        vae,
        config.objective,
        config.num_particles,
        config.alpha,
        beta,
        config.free_bits,
    )


def _make_plain(vae: VAE, num_particles: int) -> ELBO:
    """The estimator of Pyro's that belongs to the VAE's gradient."""
    loss = vae.guide.gradient.loss
    return loss(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1 and loss is not BaselineELBO,
        max_plate_nesting=1,  # the plate of the images
    )


def _check(vae: VAE, name: str, alpha: float, free_bits: float) -> None:
    if name not in OBJECTIVES:
        raise ValueError(
            f"the objective is {name!r}; expected one of "
            f"{', '.join(OBJECTIVES)}"
        )
    if name == "renyi" and alpha == 1:
        raise ValueError(
            "alpha is 1, where the Renyi bound is the ELBO; expected another "
            "number: use --objective elbo"
        )
    if free_bits and name not in DIMENSION_KLS:
        raise ValueError(
            f"--free-bits was given with the objective {name!r}; expected "
            f"{' or '.join(DIMENSION_KLS)}, which hold a KL"
        )
    gradient = vae.guide.gradient
    if not isinstance(gradient, Pathwise) and (name != "elbo" or free_bits):
        what = f"the objective is {name!r}" if name != "elbo" else "--free-bits"
        raise ValueError(
            f"{what} with the gradient {type(gradient).__name__}; expected "
            "Pathwise and continuous latents: use plain --objective elbo"
        )


@torch.no_grad()
def _try(vae: VAE, kl: Callable[[Latent], Tensor]) -> None:
    """Refuses a pair before its first step, if its images' size is known."""
    if vae.recipe is not None:
        like = next(vae.parameters())
        q = vae.infer(like.new_zeros(1, vae.recipe["data_dim"]))
        p = vae.prior()
        nothing = like.new_zeros(1, 1)
        kl(Latent(q, p, center(q), nothing, nothing))
