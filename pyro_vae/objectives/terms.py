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
        score = torch.atleast_2d(self.q.log_prob(self.z.detach()))
        return self.log_q - (score - score.detach())


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
        ValueError: If the guide draws what it cannot differentiate.
    """
    log_likelihood, latents, scale = 0.0, [], 1.0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        # The plate's scale stays outside: within a log-mean-exp it would not
        # be a bound on anything.
        log_p = torch.atleast_2d(site["unscaled_log_prob"])
        if site["is_observed"]:
            log_likelihood, scale = log_likelihood + log_p, site["scale"]
        else:
            latents.append(_latent(name, guide_trace.nodes[name], site, log_p))
    return Terms(log_likelihood, latents, scale)


def _latent(name: str, guide: dict, model: dict, log_p: Tensor) -> Latent:
    if not guide["fn"].has_rsample:
        raise ValueError(
            f"site {name!r} of the guide is {type(guide['fn']).__name__}, "
            "whose draws carry no gradient; expected a reparameterised "
            "distribution: use --objective elbo"
        )
    log_q = torch.atleast_2d(guide["unscaled_log_prob"])
    return Latent(guide["fn"], model["fn"], guide["value"], log_q, log_p)
