"""The KL divergence in closed form, and which pairs have one."""

import contextlib

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence


def compute_kl(q: Distribution, p: Distribution) -> Tensor:
    """Returns KL(q, p) in closed form.

    Returns:
        The KL, of the batch shape, in nats.

    Raises:
        ValueError: If torch has no closed form, or if the supports differ: for
            some such pairs torch answers with a number that means nothing.
    """
    if (
        isinstance(q, Distribution)
        and isinstance(p, Distribution)
        and _share_support(q, p)
    ):
        with contextlib.suppress(NotImplementedError):
            return kl_divergence(q, _like(q, p))
    raise ValueError(
        f"the guide is {_name(q)} and the prior {_name(p)}, whose KL has no "
        "closed form here; expected a pair that has one, such as Normal and "
        "Normal: use objective=elbo, which samples it"
    )


def is_analytic(q: Distribution, p: Distribution) -> bool:
    """Returns whether KL(q, p) has a closed form."""
    try:
        compute_kl(q, p)
    except ValueError:
        return False
    return True


def _share_support(q: Distribution, p: Distribution) -> bool:
    # torch compares constraints by identity; two equal ones share their repr.
    return repr(q.support) == repr(p.support)


def _like(q: Distribution, p: Distribution) -> Distribution:
    """Returns p as a full normal, if q is one and p is a diagonal normal.

    torch has no KL of a full normal from a diagonal one.
    """
    if (
        isinstance(q, torch.distributions.MultivariateNormal)
        and isinstance(p, torch.distributions.Independent)
        and isinstance(p.base_dist, torch.distributions.Normal)
        and p.reinterpreted_batch_ndims == 1
    ):
        scale_tril = p.base_dist.scale.diag_embed()
        return dist.MultivariateNormal(p.base_dist.loc, scale_tril=scale_tril)
    return p


def _name(distribution: Distribution) -> str:
    """Returns the name of the family, of independent dimensions or not."""
    if isinstance(distribution, torch.distributions.Independent):
        return type(distribution.base_dist).__name__
    return type(distribution).__name__
