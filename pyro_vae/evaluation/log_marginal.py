"""log p(x), by the method of one's choice."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing import annealed_bound
from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.evaluation.importance import importance_bound
from pyro_vae.evaluation.quadrature import integrate, log_joint
from pyro_vae.parts.distributions import OneHots
from pyro_vae.vae import VAE

SMALL = 10  # effective samples
METHODS = ("importance", "quadrature", "ais", "exact")


@dataclass(frozen=True)
class Marginal:
    """log p(x) of some images.

    Attributes:
        value: `(B,)`, in nats, double precision.
        error: `(B,)`: the standard error of a Monte Carlo method, the last
            change of a quadrature, zero of an exact sum.
        effective_sample_size: `(B,)` for importance sampling, else None.
    """

    value: Tensor
    error: Tensor
    effective_sample_size: Tensor | None = None


def log_marginal_likelihood(
    vae: VAE,
    x: Tensor,
    num_samples: int = 5000,
    method: str = "importance",
    seed: int = 0,
) -> Marginal:
    r"""Estimates or computes log p(x), image by image.

    .. math:: \log p(x) = \log \int p(z) p(x \mid z) dz

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        num_samples: Of `importance`; of `ais`, chains times temperatures, 200
            of them.
        method: `importance`, a bound for any latents (`importance_bound`);
            `quadrature`, to 1e-3 nats for one or two continuous latents
            (`integrate`); `ais`, for continuous ones (`annealed_bound`);
            `exact`, the sum over discrete latents.
        seed: Of the samples.

    Warns:
        UserWarning: If a tenth of the images have an effective sample size
            under 10, so that their bound is loose and its error too small.

    Raises:
        ValueError: If the method is unknown or cannot take the latents.
    """
    if method == "quadrature":
        result = integrate(vae, x)
        return Marginal(result.log_marginal_likelihood, result.error)
    if method == "exact":
        total = sum_states(vae, x)
        return Marginal(total, torch.zeros_like(total))
    if method == "ais":
        chains = max(2, num_samples // 200)
        annealed = annealed_bound(vae, x, chains, seed=seed)
        return Marginal(
            annealed.log_marginal_likelihood, annealed.standard_error
        )
    if method != "importance":
        raise ValueError(
            f"method is {method!r}; expected one of {', '.join(METHODS)}"
        )
    importance = importance_bound(vae, x, num_samples, seed)
    effective = importance.effective_sample_size
    few = int((effective < SMALL).sum())
    if few * 10 > len(x):
        warnings.warn(
            f"{few} of {len(x)} images have an effective sample size under "
            f"{SMALL} of {num_samples}: their bound is loose; take more "
            "samples, or method quadrature or ais",
            stacklevel=2,
        )
    return Marginal(
        importance.log_marginal_likelihood,
        importance.standard_error,
        effective,
    )


@torch.no_grad()
def sum_states(vae: VAE, x: Tensor) -> Tensor:
    r"""Sums discrete latents out: :math:`\log \sum_z p(z) p(x \mid z)`.

    Args:
        vae: Of discrete latents, with at most `MAX_STATES` configurations.
        x: Images, `(B, D)`.

    Returns:
        `(B,)`, in nats, double precision.

    Raises:
        ValueError: If the latents are not discrete.
    """
    prior = vae.prior()
    if not isinstance(prior, OneHots):
        raise ValueError(
            "the latents are not all discrete; expected a categorical prior "
            "for an exact sum: use method quadrature, importance or ais"
        )
    z = prior.enumerate_support()
    with evaluation_mode(vae):
        parts = [
            log_joint(vae, z, part.double()).logsumexp(0)
            for part in x.split(1000)
        ]
    return torch.cat(parts)
