"""What distributions with discrete latents answer, and draws under any q."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

MAX_STATES = 1024  # configurations that are enumerated


class WeightedDraws(NamedTuple):
    """Latents, and the weights that turn a sum over them into an expectation.

    Attributes:
        z: Latents, `(S, B, P)`, or `(S, B, K, P)`, one for each component.
        weight: Weights that broadcast with `z.shape[:-1]`.
        log_ratio: log q(z | x) - log p(z), of the same shape, in nats.
    """

    z: Tensor
    weight: Tensor | float
    log_ratio: Tensor

    def expectation(self, values: Tensor) -> Tensor:
        """Returns the weighted sum over all dimensions but B: `(B,)`."""
        dims = (0, *range(2, values.dim()))
        return (self.weight * values).sum(dims)


class DiscreteLatents(ABC):
    """A distribution with discrete latents that can be summed over."""

    @property
    @abstractmethod
    def num_states(self) -> int:
        """The number of states of the discrete latents."""

    @property
    @abstractmethod
    def most_probable_state(self) -> Tensor:
        """The index of the most probable state, integers of the batch shape."""

    @abstractmethod
    def declare(self, infer: dict[str, Any]) -> Tensor:
        """Declares the Pyro sample sites of the latents, and returns z.

        Args:
            infer: The `infer` dictionary of the discrete site.
        """

    @abstractmethod
    def detached(self) -> Distribution:
        """Returns it with discrete draws that carry no gradient."""

    @abstractmethod
    def weighted_draws(
        self, p: Distribution, num_samples: int
    ) -> WeightedDraws:
        """Returns draws for expectations under this q, with a prior p."""


def sampled_draws(
    q: Distribution, p: Distribution, num_samples: int
) -> WeightedDraws:
    """Returns S draws of z from q, each of the same weight."""
    draw = q.rsample if q.has_rsample else q.sample
    z = draw(torch.Size([num_samples]))
    return WeightedDraws(z, 1 / num_samples, q.log_prob(z) - p.log_prob(z))


def declare_site(
    name: str,
    distribution: Distribution,
    infer: dict[str, Any] | None = None,
    obs: Tensor | None = None,
) -> Tensor:
    """Declares a Pyro sample site, and returns its value.

    Args:
        name: The name of the site.
        distribution: One of Pyro's, though mypy sees torch's class.
        infer: Options of the site for Pyro's inference algorithms.
        obs: What was observed there, if the site is no latent.
    """
    fn, options = cast(Any, distribution), cast(Any, infer)
    return pyro.sample(name, fn, infer=options, obs=obs)


def check_num_states(num_states: int) -> None:
    """Refuses to enumerate too many states.

    Raises:
        ValueError: If there are more than `MAX_STATES`.
    """
    if num_states > MAX_STATES:
        raise ValueError(
            f"there are {num_states} configurations of the discrete latents; "
            f"expected at most {MAX_STATES} to enumerate: lower "
            "num_variables or num_components, or sample them with the gradient "
            "score-function-baseline or gumbel-softmax"
        )
