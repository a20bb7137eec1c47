"""The log-densities of a minibatch, read from the traces of a Pyro pair."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution

Site = Mapping[str, Any]  # what a trace notes of a sample statement


@dataclass(frozen=True)
class Latent:
    """A latent sample site, as the guide has drawn it.

    Attributes:
        q: The guide's distribution, q(z | x).
        p: The model's distribution, p(z).
        z: The draws, `(S, B, P)`, or `(B, P)` if S is 1.
        log_q: The log-densities of the draws under q, `(S, B)`, in nats.
        log_p: The log-densities of the draws under p, `(S, B)`, in nats.
    """

    q: Distribution
    p: Distribution
    z: Tensor
    log_q: Tensor
    log_p: Tensor

    def path_log_q(self) -> Tensor:
        """Returns log q(z | x) with a gradient in phi through z alone.

        The value is that of `log_q`. The gradient of log q(z; phi) at a fixed
        z, the score, has mean zero and is left out.

        Returns:
            `(S, B)`, in nats.
        """
        # A flow remembers the noise of its own draws, and the gradient would
        # go through that noise in place of z. It does not recognize a copy.
        log_q = torch.atleast_2d(self.q.log_prob(self.z.clone()))
        score = torch.atleast_2d(self.q.log_prob(self.z.detach()))
        return log_q - (score - score.detach())


@dataclass(frozen=True)
class Terms:
    """The log-densities of a minibatch, of which a bound is made.

    Attributes:
        log_likelihood: log p(x | z), `(S, B)`, in nats.
        latents: The latent sites.
        scale: N / B, the weight of each image in the loss.
    """

    log_likelihood: Tensor
    latents: list[Latent]
    scale: Tensor | float

    def log_ratio(self) -> Tensor:
        """Returns log q(z | x) - log p(z), `(S, B)`, in nats.

        Its mean over the draws estimates the KL.
        """
        return _sum(latent.log_q - latent.log_p for latent in self.latents)

    def path_log_ratio(self) -> Tensor:
        """Returns `log_ratio` without the score of q in its gradient."""
        return _sum(
            latent.path_log_q() - latent.log_p for latent in self.latents
        )


def read_terms(model_trace: Trace, guide_trace: Trace) -> Terms:
    """Returns the terms of two traces with their log-densities.

    Args:
        model_trace: The trace of the model, replayed with the guide's draws.
        guide_trace: The trace of the guide.

    Raises:
        ValueError: If a draw of the guide carries no gradient, or if the sites
            are not all in one plate, with one scale and without a mask.
    """
    log_likelihoods, latents = [], []
    sites = _sample_sites(model_trace)
    _check_alike(sites)
    for name, site in sites:
        # The plate's scale stays outside: within a log-mean-exp it would not
        # be a bound on anything.
        log_p = torch.atleast_2d(site["unscaled_log_prob"])
        if site["is_observed"]:
            log_likelihoods.append(log_p)
        else:
            latents.append(_latent(name, guide_trace.nodes[name], site, log_p))
    for name, _ in _sample_sites(guide_trace):
        if name not in model_trace:
            raise ValueError(
                f"site {name!r} of the guide is not in the model; expected "
                "one for each of its latents alone: use objective=elbo"
            )
    return Terms(_sum(log_likelihoods), latents, sites[0][1]["scale"])


def _sum(parts: Iterable[Tensor]) -> Tensor:
    """Returns the sum of tensors, which is 0 where there are none."""
    return torch.as_tensor(sum(parts))


def _sample_sites(trace: Trace) -> list[tuple[str, Site]]:
    nodes = trace.nodes.items()
    return [(name, site) for name, site in nodes if site["type"] == "sample"]


def _check_alike(sites: list[tuple[str, Site]]) -> None:
    """Refuses sites that do not have one log-density for each image."""
    _, first = sites[0]
    for name, site in sites:
        if site["mask"] is not None:
            fault = "is masked"
        elif not _plates(site) or _plates(site) != _plates(first):
            fault = "is not in the plate of the others"
        elif site["scale"] is not first["scale"] != site["scale"]:
            fault = "is not scaled as the others are"
        else:
            continue
        raise ValueError(
            f"site {name!r} of the model {fault}; expected all of them in one "
            "plate, that of the images, for a bound on each: use Trace_ELBO"
        )


def _plates(site: Site) -> set[str]:
    return {plate.name for plate in site["cond_indep_stack"]}


def _latent(name: str, guide: Site, model: Site, log_p: Tensor) -> Latent:
    if not guide["fn"].has_rsample:
        raise ValueError(
            f"site {name!r} of the guide is {type(guide['fn']).__name__}, "
            "whose draws carry no gradient; expected a reparameterized "
            "distribution: use objective=elbo"
        )
    log_q = torch.atleast_2d(guide["unscaled_log_prob"])
    return Latent(guide["fn"], model["fn"], guide["value"], log_q, log_p)
