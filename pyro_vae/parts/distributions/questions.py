"""Questions that every distribution answers, with discrete latents or not."""

import contextlib
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.parts.distributions.detached import Detached
from pyro_vae.parts.distributions.discrete import (
    DiscreteLatents,
    WeightedDraws,
    declare_site,
    sampled_draws,
)
from pyro_vae.parts.distributions.normal_mixture import NormalMixture


def center(distribution: Distribution) -> Tensor:
    """Returns one point that represents a distribution.

    This is the mode, or else the mean; for a flow, which has neither in closed
    form, it is the image of the center of the base distribution.

    Returns:
        `batch_shape + event_shape`.

    Raises:
        NotImplementedError: If the distribution has none of them.
    """
    for name in ("mode", "mean"):
        with contextlib.suppress(NotImplementedError):
            return getattr(distribution, name)
    if not isinstance(distribution, dist.TransformedDistribution):
        raise NotImplementedError(
            f"the distribution is {type(distribution).__name__}; expected one "
            "with a mode or a mean, or a TransformedDistribution of such a one"
        )
    z = center(distribution.base_dist)
    for transform in distribution.transforms:
        z = transform(z)
    return z


def count_states(distribution: Distribution) -> int:
    """Returns the number of discrete states behind a distribution, or 1."""
    if isinstance(distribution, DiscreteLatents):
        return distribution.num_states
    return 1


def most_probable_state(distribution: Distribution) -> Tensor:
    """Returns the index of the most probable state, integers `batch_shape`.

    For a mixture this is the component; for one-hot variables it is the place
    among their enumerated configurations. Where no latent is discrete, it is 0.
    """
    if isinstance(distribution, DiscreteLatents):
        return distribution.most_probable_state
    return torch.zeros(distribution.batch_shape, dtype=torch.long)


def declare_latents(
    distribution: Distribution, infer: dict[str, Any]
) -> Tensor:
    """Declares the Pyro sample site `z`, after the site `y` of a component.

    Args:
        distribution: The distribution of z.
        infer: The `infer` dictionary of the site, or of its discrete part.
    """
    if isinstance(distribution, DiscreteLatents):
        return distribution.declare(infer)
    return declare_site("z", distribution, infer)


def observe_component(
    distribution: Distribution, labels: Tensor | int | None
) -> Distribution:
    """Returns a distribution whose component is known where a label is.

    Args:
        distribution: A `NormalMixture`, unless there are no labels.
        labels: `(B,)` integers, -1 where a label is not known; or None.

    Raises:
        ValueError: If there are labels, and no component that they could be.
    """
    if labels is None:
        return distribution
    if not isinstance(distribution, NormalMixture):
        raise ValueError(
            f"labels were given to a VAE that takes none, whose guide is "
            f"{type(distribution).__name__}; expected none: build it with "
            "condition=labels, or prior=mixture, whose component they are"
        )
    device = distribution.loc.device
    return distribution.observe(torch.as_tensor(labels, device=device))


def log_prob_component(distribution: Distribution, y: Tensor) -> Tensor:
    """Returns log q(y | x) of components y, `batch_shape`, in nats.

    Raises:
        ValueError: If the distribution has no component.
    """
    if not isinstance(distribution, NormalMixture):
        raise ValueError(
            f"the guide is {type(distribution).__name__}; expected a mixture "
            "to classify images by its component: use prior=mixture"
        )
    return distribution.mixture_distribution.log_prob(y)


def detach_draws(distribution: Distribution) -> Distribution:
    """Returns a distribution whose draws carry no gradient.

    Of a mixture only the component's draws carry none.
    """
    if isinstance(distribution, DiscreteLatents):
        return distribution.detached()
    return Detached(distribution)


def weighted_draws(
    q: Distribution, p: Distribution, num_samples: int
) -> WeightedDraws:
    """Returns draws of z for expectations under q, discrete states summed over.

    Args:
        q: q(z | x), batch shape `(B,)`.
        p: p(z), batch shape `()`.
        num_samples: S, the number of draws of what is not summed over.
    """
    if isinstance(q, DiscreteLatents):
        return q.weighted_draws(p, num_samples)
    return sampled_draws(q, p, num_samples)
