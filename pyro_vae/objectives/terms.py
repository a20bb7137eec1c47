"""The log-densities of a minibatch, read off the traces of a Pyro pair."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.poutine import Trace
from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """A latent site.

    Attributes:
        q: The guide's distribution.
        p: The model's.
        z: The draws, `(S, B, P)`, or `(B, P)` if there is one each.
        log_q: Their log-densities under q, `(S, B)`, in nats.
        log_p: Those under p.
    """

    q: dist.Distribution
    p: dist.Distribution
    z: Tensor
    log_q: Tensor
    log_p: Tensor

    def path_log_q(self) -> Tensor:
        r"""Returns log q whose gradient in phi goes through z alone.

        The gradient of log q(z; phi) at a fixed z, the score, has mean zero;
        it is taken off, and the value stays.
        """
        # Of a copy: what a flow remembers of its own draws would bypass z.
        log_q = torch.atleast_2d(self.q.log_prob(self.z.clone()))
        score = torch.atleast_2d(self.q.log_prob(self.z.detach()))
        return log_q - (score - score.detach())


@dataclass(frozen=True)
class Terms:
    """What a bound is made of.

    Attributes:
        log_likelihood: log p(x | z), `(S, B)`, in nats.
        latents: The latent sites.
        scale: N / B, the weight of each image in the loss.
    """

    log_likelihood: Tensor
    latents: list[Latent]
    scale: Tensor | float

    def log_ratio(self) -> Tensor:
        """Returns log q(z | x) - log p(z), `(S, B)`: a sample of the KL."""
        return sum(latent.log_q - latent.log_p for latent in self.latents)

    def path_log_ratio(self) -> Tensor:
        """Returns the same, without the score of q in its gradient."""
        return sum(
            latent.path_log_q() - latent.log_p for latent in self.latents
        )


def read_terms(model_trace: Trace, guide_trace: Trace) -> Terms:
    """Reads the terms off traces whose log-densities were computed.

    Raises:
        ValueError: If the guide draws what it cannot differentiate, or the
            sites are not all in one plate, alike.
    """
    log_likelihood, latents, sites = 0.0, [], _sample_sites(model_trace)
    _check_alike(sites)
    for name, site in sites:
        # The plate's scale stays outside: within a log-mean-exp it would not
        # be a bound on anything.
        log_p = torch.atleast_2d(site["unscaled_log_prob"])
        if site["is_observed"]:
            log_likelihood = log_likelihood + log_p
        else:
            latents.append(_latent(name, guide_trace.nodes[name], site, log_p))
    for name, _ in _sample_sites(guide_trace):
        if name not in model_trace:
            raise ValueError(
                f"site {name!r} of the guide is not in the model; expected "
                "one for each of its latents alone: use --objective elbo"
            )
    return Terms(log_likelihood, latents, sites[0][1]["scale"])


def _sample_sites(trace: Trace) -> list[tuple[str, dict]]:
    nodes = trace.nodes.items()
    return [(name, site) for name, site in nodes if site["type"] == "sample"]


def _check_alike(sites: list[tuple[str, dict]]) -> None:
    """Refuses what would be counted otherwise than image by image."""
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


def _plates(site: dict) -> set[str]:
    return {plate.name for plate in site["cond_indep_stack"]}


def _latent(name: str, guide: dict, model: dict, log_p: Tensor) -> Latent:
    if not guide["fn"].has_rsample:
        raise ValueError(
            f"site {name!r} of the guide is {type(guide['fn']).__name__}, "
            "whose draws carry no gradient; expected a reparameterised "
            "distribution: use --objective elbo"
        )
    log_q = torch.atleast_2d(guide["unscaled_log_prob"])
    return Latent(guide["fn"], model["fn"], guide["value"], log_q, log_p)
