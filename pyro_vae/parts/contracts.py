"""What a VAE asks of its parts: a prior, a likelihood and a guide.

Each is a module whose `forward` returns a distribution. B is the size of a
minibatch, D the dimension of the data, P that of the latents, and F the number
of the guide's unconstrained parameters for each image.

A plain `nn.Module` of your own that returns such a distribution will do in the
place of any of them. These classes name what some features ask for beyond it:
E-steps and gaps need `AmortizedGuide.family`, for example.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

PAIRS = 100_000_000  # numbers held at a time by the generic cross_log_prob


class Prior(nn.Module, ABC):
    """A prior, p(z)."""

    @abstractmethod
    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""


class Likelihood(nn.Module, ABC):
    """A likelihood, p(x | z), and the network that it is made of.

    Args:
        decoder: The network f(z, w), mapping `(..., P)` to `(..., D)`.

    Attributes:
        support: Where the data must lie, dimension by dimension.
        takes_missing: Whether NaN in the data means that it was not observed.
    """

    support: constraints.Constraint = constraints.real
    takes_missing: bool = False

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    @abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""

    def mean_like(self, p: Distribution, x: Tensor) -> Tensor:
        """Returns the mean of p(x | z), for data as x are.

        It differs from `p.mean` where that depends on what is given with x,
        such as the library size of counts.

        Args:
            p: What `forward` has returned, batch shape `(..., B)`.
            x: Data, `(B, D)`.

        Returns:
            `(..., B, D)`.
        """
        return p.mean

    def start(self, x: Tensor) -> None:
        """Takes from data what is to be known before the first fit.

        Most likelihoods take nothing.

        Args:
            x: Training data, `(N, D)`.
        """

    def cross_log_prob(
        self, z: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Returns log p(x | z) for every pair of a latent and an image.

        A likelihood that is linear in a few statistics of x can do this with
        one matrix product, as this package's own do.

        Args:
            z: Latents, `(M, P)`.
            x: Images, `(B, D)`.
            observed: Which dimensions are summed, `(B, D)` booleans; by
                default all.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        return pairwise_log_prob(self, z, x, observed)


class AmortizedGuide(nn.Module, ABC):
    """A guide, q(z | x), whose parameters an encoder network computes.

    Args:
        encoder: The network g(x, phi), mapping images `(B, D)` to the
            unconstrained parameters of the family, lambda, `(B, F)`.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Distribution:
        """Returns q(z | x), batch shape `(B,)`, event shape `(P,)`."""
        return self.family(self.encoder(x))

    @abstractmethod
    def family(self, parameters: Tensor) -> Distribution:
        """Returns the member of the family with given parameters.

        Args:
            parameters: Unconstrained parameters lambda, `(..., F)`.

        Returns:
            A distribution of batch shape `(...)` and event shape `(P,)`.
        """

    @property
    def num_parameters(self) -> int:
        """F, the number of unconstrained parameters for each image."""
        return feature_count(self.encoder, "out_features")


def feature_count(network: nn.Module, name: str) -> int:
    """Returns a network's `in_features` or `out_features`.

    Raises:
        ValueError: If the network does not say.
    """
    size = getattr(network, name, None)
    if type(size) is not int:
        raise ValueError(
            f"the network {type(network).__name__} has no {name}; expected a "
            f"network with the attribute {name}, a whole number, as nn.Linear "
            "and this package's networks have"
        )
    return size


def pairwise_log_prob(
    likelihood: nn.Module,
    z: Tensor,
    x: Tensor,
    observed: Tensor | None = None,
) -> Tensor:
    """Returns log p(x | z) for every pair, for any likelihood module.

    Args:
        likelihood: `likelihood(z)` is p(x | z).
        z: Latents, `(M, P)`.
        x: Images, `(B, D)`.
        observed: Which dimensions are summed, `(B, D)` booleans; by default
            all.

    Returns:
        `(M, B)`, in nats, of x's dtype.
    """
    rows = max(1, PAIRS // x.numel())
    parts = []
    for part in z.split(rows):
        p = likelihood(part.unsqueeze(1))
        if observed is None:
            log_p = p.log_prob(x.to(z))
        else:
            log_p = sum_observed(p, x.to(z), observed)
        parts.append(log_p.to(x))
    return torch.cat(parts)


def sum_observed(p: Distribution, x: Tensor, observed: Tensor) -> Tensor:
    """Returns the log-density of some of a distribution's dimensions.

    Args:
        p: A distribution of independent dimensions, event shape `(D,)`.
        x: `(..., D)`, in its support also where it is not observed.
        observed: Which dimensions are summed, `(..., D)` booleans.

    Returns:
        `(...)`, in nats.

    Raises:
        ValueError: If the dimensions are not independent.
    """
    if not isinstance(p, Independent) or p.base_dist.event_shape:
        raise ValueError(
            f"p(x | z) is {type(p).__name__}, whose dimensions are not "
            "independent; expected one of which some can be left out: make it "
            "by .to_event(1)"
        )
    log_p = p.base_dist.log_prob(x)
    return torch.where(observed, log_p, torch.zeros_like(log_p)).sum(-1)


def check_distribution(
    value: Any,
    what: str,
    expected: str,
    batch_shape: torch.Size,
    event_size: int | None = None,
) -> Distribution:
    """Returns what a part returned, if it is what the part's place asks for.

    Args:
        value: What the part returned.
        what: The part in words, such as `prior NormalPrior`.
        expected: The distribution in words, such as `p(z)`.
        batch_shape: The batch shape that it must have.
        event_size: The size of its one event dimension; None if any will do.

    Raises:
        ValueError: If it is no distribution of Pyro's, or of another shape.
    """
    if not isinstance(value, Distribution):
        raise ValueError(
            f"the {what} returned {type(value).__name__}; expected a module "
            f"whose forward returns {expected}, a distribution of "
            "pyro.distributions"
        )
    if not isinstance(value, TorchDistributionMixin):
        raise ValueError(
            f"the {what} returned torch's {type(value).__name__}; expected one "
            "of pyro.distributions, which Pyro can sample: import it from "
            "there, it takes the same arguments"
        )
    shape, event = tuple(value.batch_shape), tuple(value.event_shape)
    is_event = len(event) == 1 and event_size in (None, *event)
    if shape == tuple(batch_shape) and is_event:
        return value
    fix = "" if event else ": use .to_event(1)"
    size = "(n,) of any size" if event_size is None else f"({event_size},)"
    raise ValueError(
        f"the {what} returned {expected} of batch shape {shape} and event "
        f"shape {event}; expected batch shape {tuple(batch_shape)} and event "
        f"shape {size}{fix}"
    )
