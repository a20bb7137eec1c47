"""log p(x), by any method: the table of the methods, and what calls them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing import annealed_bound
from pyro_vae.evaluation.by_label import by_label
from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.evaluation.grid import log_joint
from pyro_vae.evaluation.importance import importance_bound
from pyro_vae.evaluation.quadrature import integrate
from pyro_vae.evaluation.result import (
    ANY,
    CONTINUOUS,
    DISCRETE,
    FEW,
    Latents,
    LogMarginal,
)
from pyro_vae.parts.likelihoods import check_data
from pyro_vae.vae import VAE

SMALL = 10  # effective samples
TEMPERATURES = 200  # of annealed importance sampling


@torch.no_grad()
def sum_states(vae: VAE, x: Tensor) -> LogMarginal:
    r"""Sums discrete latents out: :math:`\log \sum_z p(z) p(x \mid z)`.

    Args:
        vae: A VAE with discrete latents, of at most 1,024 configurations.
        x: Images, `(B, D)`.

    Raises:
        ValueError: If the latents are not discrete, or are too many.
    """
    prior = vae.prior()
    DISCRETE.check(prior, "an exact sum")
    z = prior.enumerate_support()
    with evaluation_mode(vae):
        parts = [
            log_joint(vae, z, part.double()).logsumexp(0)
            for part in x.split(1000)
        ]
    value = torch.cat(parts)
    return LogMarginal(value, torch.zeros_like(value))


@dataclass(frozen=True)
class Effort:
    """What a method may take to be as exact as it can.

    Attributes:
        num_samples: The samples for each image; they mean nothing to an exact
            method.
        seed: The seed of all randomness.
        tolerance: The largest error of an image that quadrature accepts, in
            nats.
    """

    num_samples: int
    seed: int
    tolerance: float


def _sum(vae: VAE, x: Tensor, effort: Effort) -> LogMarginal:
    return sum_states(vae, x)


def _integrate(vae: VAE, x: Tensor, effort: Effort) -> LogMarginal:
    return integrate(vae, x, effort.tolerance)


def _sample(vae: VAE, x: Tensor, effort: Effort) -> LogMarginal:
    return importance_bound(vae, x, effort.num_samples, effort.seed)


def _anneal(vae: VAE, x: Tensor, effort: Effort) -> LogMarginal:
    num_chains = max(2, effort.num_samples // TEMPERATURES)
    return annealed_bound(vae, x, num_chains, TEMPERATURES, effort.seed)


@dataclass(frozen=True)
class Method:
    """A way to find log p(x).

    Attributes:
        about: What it computes, in words.
        takes: The latents that it takes.
        estimate: Takes a VAE, images `(B, D)`, and the effort.
        is_exact: Whether its errors are tolerances of a computation, and not
            standard errors of sampling.
    """

    about: str
    takes: Latents
    estimate: Callable[[VAE, Tensor, Effort], LogMarginal]
    is_exact: bool = False


# The more exact a method is, the farther up it stands: the default one for a
# VAE is the first that takes its latents.
METHODS = {
    "exact": Method("the sum over discrete latents", DISCRETE, _sum, True),
    "quadrature": Method(
        "the integral over one or two latents, to a tolerance",
        FEW,
        _integrate,
        True,
    ),
    "importance": Method(
        "a lower bound by samples from the guide", ANY, _sample
    ),
    "ais": Method(
        "annealed importance sampling, a lower bound for continuous latents "
        "that does not rest on the guide",
        CONTINUOUS,
        _anneal,
    ),
}


def log_marginal_likelihood(
    vae: VAE,
    x: Tensor,
    num_samples: int = 5000,
    method: str = "importance",
    seed: int = 0,
    labels: Tensor | None = None,
    tolerance: float = 1e-3,
) -> LogMarginal:
    r"""Estimates or computes log p(x), image by image.

    .. math:: \log p(x) = \log \int p(z) p(x \mid z) dz

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        num_samples: The samples for each image that `importance` takes, or
            those that `ais` takes: chains times 200 temperatures.
        method: A name in `METHODS`: `exact` (`sum_states`), `quadrature`
            (`integrate`), `importance` (`importance_bound`) or `ais`
            (`annealed_bound`).
        seed: The seed of all randomness.
        labels: The labels, `(B,)`, of a conditional VAE: it is log p(x | y).
        tolerance: The error, in nats, that `quadrature` accepts of an image.

    Warns:
        UserWarning: If more than a tenth of the images have an effective
            sample size under 10, so that their bound is loose and its error
            too small.

    Raises:
        ValueError: If the method is unknown or cannot take the latents, or an
            image is outside the support of the likelihood.
    """
    chosen = find_method(vae, method)
    check_data(vae.likelihood, x)
    effort = Effort(num_samples, seed, tolerance)
    found = by_label(
        lambda vae, x: chosen.estimate(vae, x, effort), vae, x, labels
    )
    if found.effective_sample_size is not None:
        warn_of_few(vae, found.effective_sample_size, num_samples)
    return found


def find_method(vae: VAE, name: str) -> Method:
    """Returns the method of a name.

    Raises:
        ValueError: If there is none, or it cannot take the VAE's latents.
    """
    if name not in METHODS:
        raise ValueError(
            f"method is {name!r}; expected one of {', '.join(METHODS)}"
        )
    fix = f": use method {' or '.join(list_methods(vae))}"
    METHODS[name].takes.check(vae.prior(), f"method {name}", fix)
    return METHODS[name]


def list_methods(vae: VAE) -> list[str]:
    """Returns the names of the methods that take a VAE's latents."""
    prior = vae.prior()
    return [name for name, row in METHODS.items() if row.takes.include(prior)]


def default_method(vae: VAE) -> str:
    """Returns the name of the most exact method that a VAE allows."""
    return list_methods(vae)[0]


def warn_of_few(vae: VAE, effective: Tensor, num_samples: int) -> None:
    """Warns if an importance bound is loose.

    Args:
        vae: The VAE.
        effective: The effective sample sizes of all images, `(B,)`.
        num_samples: The number of samples for each image.

    Warns:
        UserWarning: If more than a tenth of the images have an effective
            sample size under 10.
    """
    few = int((effective < SMALL).sum())
    if few * 10 > len(effective):
        others = [name for name in list_methods(vae) if name != "importance"]
        warnings.warn(
            f"{few} of {len(effective)} images have an effective sample size "
            f"under {SMALL} of {num_samples}: their importance bound is loose; "
            f"take more samples, or method {' or '.join(others)}",
            stacklevel=3,
        )
