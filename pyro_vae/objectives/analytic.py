"""Which KL divergences have a closed form."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.building import build
from pyro_vae.config import FITTING_GUIDES, Config


def compute_kl(q: dist.Distribution, p: dist.Distribution) -> Tensor:
    """Returns the KL of q from p in closed form, in nats, of the batch shape.

    Raises:
        ValueError: If torch has none, or if the supports differ: there torch
            would answer for some pairs with a number that means nothing.
    """
    if repr(q.support) == repr(p.support):  # constraints compare by identity
        try:
            return kl_divergence(q, _like(q, p))
        except NotImplementedError:
            pass
    raise ValueError(
        f"the guide is {_name(q)} and the prior {_name(p)}, whose KL has no "
        "closed form here; expected a pair that has one, such as Normal and "
        "Normal: use --objective elbo, which samples it"
    )


def is_analytic(q: dist.Distribution, p: dist.Distribution) -> bool:
    """Whether the KL of q from p has a closed form."""
    try:
        compute_kl(q, p)
    except ValueError:
        return False
    return True


def list_analytic_pairs() -> dict[tuple[str, str], bool]:
    """Whether `analytic-kl` takes a pair, for each `(prior, guide)` by name."""
    pairs = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for prior, guides in FITTING_GUIDES.items():
            for guide in guides:
                config = Config(prior=prior, guide=guide, hidden=(2,))
                vae = build(config, data_dim=4)
                q = vae.infer(torch.zeros(1, 4))
                pairs[prior, guide] = is_analytic(q, vae.prior())
    return pairs


def _like(q: dist.Distribution, p: dist.Distribution) -> dist.Distribution:
    """A diagonal normal p as a full one if q is: torch has no mixed pair."""
    is_diagonal = (
        isinstance(p, torch.distributions.Independent)
        and isinstance(p.base_dist, torch.distributions.Normal)
        and p.reinterpreted_batch_ndims == 1
    )
    if isinstance(q, torch.distributions.MultivariateNormal) and is_diagonal:
        scale_tril = p.base_dist.scale.diag_embed()
        return dist.MultivariateNormal(p.base_dist.loc, scale_tril=scale_tril)
    return p


def _name(distribution: dist.Distribution) -> str:
    """The family's name, without the wrapper that makes it one event."""
    family = getattr(distribution, "base_dist", distribution)
    is_wrapped = isinstance(distribution, torch.distributions.Independent)
    return type(family if is_wrapped else distribution).__name__
