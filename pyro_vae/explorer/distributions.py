"""Priors, guides and likelihoods in words that a page's own code knows."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import Distribution, Independent

from pyro_vae.explorer.arrays import Blob, to_list
from pyro_vae.explorer.networks import UnknownPartError, describe_network
from pyro_vae.parts.flows import Couplings
from pyro_vae.parts.guides import (
    FlowGuide,
    FullNormalGuide,
    LaplaceGuide,
    MixtureGuide,
    NormalGuide,
)
from pyro_vae.parts.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
)
from pyro_vae.parts.priors import FlowPrior

Words = dict[str, Any]
Index = tuple[int, ...]

MOMENTS = 2000  # draws for the ellipse of a family without a covariance
FAMILIES = {
    torch.distributions.Normal: "normal",
    torch.distributions.Laplace: "laplace",
    torch.distributions.StudentT: "student-t",
    dist.Logistic: "logistic",
}
GUIDES: dict[type, str] = {
    NormalGuide: "normal",
    LaplaceGuide: "laplace",
    FullNormalGuide: "full-normal",
    MixtureGuide: "mixture",
    FlowGuide: "flow",
}
LIKELIHOODS: dict[type, str] = {
    GaussianLikelihood: "gaussian",
    BernoulliLikelihood: "bernoulli",
    ContinuousBernoulliLikelihood: "continuous-bernoulli",
}


def describe_prior(prior: nn.Module, blob: Blob) -> Words:
    """Returns p(z), JSON-able.

    Args:
        prior: The prior.
        blob: Where the weights of a flow go.

    Raises:
        UnknownPartError: If the page has no code for it.
    """
    if not isinstance(prior, FlowPrior):
        return describe_distribution(prior())
    p: Any = prior()
    return {
        "kind": "flow",
        "base": describe_distribution(p.base_dist),
        "couplings": _describe_couplings(prior.couplings, blob),
    }


def describe_distribution(distribution: Any, index: Index = ()) -> Words:
    """Returns a distribution of z, JSON-able.

    Args:
        distribution: The distribution, event shape `(P,)`.
        index: The place in its batch.

    Raises:
        UnknownPartError: If the page has no code for it.
    """
    d = distribution
    if isinstance(d, torch.distributions.MixtureSameFamily):
        parts, log_weights = d.component_distribution, d.mixture_distribution
        logits = log_weights.logits[index]
        return {
            "kind": "mixture",
            "log_weights": to_list(logits.log_softmax(-1)),
            "parts": [
                describe_distribution(parts, (*index, k))
                for k in range(len(logits))
            ],
        }
    if isinstance(d, torch.distributions.MultivariateNormal):
        loc, tril = d.loc[index], d.scale_tril[index]
        return {
            "kind": "full-normal",
            "loc": to_list(loc),
            "tril": to_list(tril),
        }
    base = d.base_dist if isinstance(d, Independent) else None
    for family, kind in FAMILIES.items():
        if isinstance(base, family):
            return _describe_independent(kind, base, index)
    raise UnknownPartError(f"the page has no code for {type(d).__name__}")


def describe_ellipse(distribution: Distribution) -> Words:
    """Returns q of one image, or the normal of its moments, JSON-able.

    Args:
        distribution: Its batch is of one image.
    """
    try:
        return describe_distribution(distribution, (0,))
    except UnknownPartError:
        z = distribution.sample(torch.Size([MOMENTS])).squeeze(1)
        covariance = z.T.cov().view(z.shape[1], z.shape[1])
        tril = torch.linalg.cholesky(covariance)
        return {
            "kind": "full-normal",
            "loc": to_list(z.mean(0)),
            "tril": to_list(tril),
        }


def describe_guide(guide: nn.Module, blob: Blob) -> Words:
    """Returns a guide's encoder and family, JSON-able.

    Raises:
        UnknownPartError: If the page has no code for one of them.
    """
    if type(guide) not in GUIDES:
        raise UnknownPartError(
            f"the page has no code for the guide {type(guide).__name__}"
        )
    module: Any = guide
    words: Words = {
        "kind": GUIDES[type(guide)],
        "encoder": describe_network(module.encoder, blob),
        "min_scale": module.min_scale,
    }
    if isinstance(guide, MixtureGuide):
        words["num_components"] = guide.num_components
    if isinstance(guide, FlowGuide):
        words["couplings"] = _describe_couplings(guide.couplings, blob)
    return words


def describe_likelihood(likelihood: nn.Module, blob: Blob) -> Words:
    """Returns a likelihood and its decoder, JSON-able.

    Raises:
        UnknownPartError: If the page has no code for one of them.
    """
    if type(likelihood) not in LIKELIHOODS:
        raise UnknownPartError(
            f"the page has no code for the likelihood "
            f"{type(likelihood).__name__}; expected one of "
            + ", ".join(LIKELIHOODS.values())
        )
    module: Any = likelihood
    words: Words = {
        "kind": LIKELIHOODS[type(likelihood)],
        "decoder": describe_network(module.decoder, blob),
    }
    if isinstance(likelihood, GaussianLikelihood):
        words["scale"] = blob.add(likelihood.scale.reshape(-1))
    return words


def _describe_independent(kind: str, base: Any, index: Index) -> Words:
    loc, scale = base.loc[index], base.scale[index]
    words = {"kind": kind, "loc": to_list(loc), "scale": to_list(scale)}
    if kind == "student-t":
        words["df"] = to_list(base.df.expand(base.loc.shape)[index])
    return words


def _describe_couplings(couplings: Couplings, blob: Blob) -> Words:
    networks: list[Any] = list(couplings.networks)
    return {
        "split": couplings.split,
        "networks": [
            [
                {"weight": blob.add(layer.weight), "bias": blob.add(layer.bias)}
                for layer in network.layers
            ]
            for network in networks
        ],
    }
