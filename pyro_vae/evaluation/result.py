"""What every method returns for log p(x), and which latents it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.parts.distributions import MAX_STATES, count_states


@dataclass(frozen=True)
class LogMarginal:
    """log p(x) of each of B images, or a bound of it.

    Attributes:
        value: log p(x), `(B,)`, in nats, in double precision.
        error: How far off the value may be, `(B,)`, in nats: the standard
            error of a Monte Carlo estimate, the last changes of a quadrature,
            0 for an exact sum.
        effective_sample_size: The number of equally weighted samples that
            would tell as much, `(B,)`, if the method weights samples by the
            guide; None otherwise.
    """

    value: Tensor
    error: Tensor
    effective_sample_size: Tensor | None = None

    @staticmethod
    def join(parts: Sequence["LogMarginal"]) -> "LogMarginal":
        """Returns the results of one method for several minibatches as one."""
        sizes = [part.effective_sample_size for part in parts]
        known = [size for size in sizes if size is not None]
        return LogMarginal(
            torch.cat([part.value for part in parts]),
            torch.cat([part.error for part in parts]),
            torch.cat(known) if known else None,
        )


@dataclass(frozen=True)
class Latents:
    """A kind of latents that a method takes.

    Attributes:
        words: The kind in words, as they follow "expected" in a refusal.
        include: Returns whether the latents of a prior p(z) are of this kind.
    """

    words: str
    include: Callable[[Distribution], bool]

    def check(self, prior: Distribution, purpose: str, fix: str = "") -> None:
        """Refuses latents of another kind.

        Args:
            prior: p(z).
            purpose: What the latents are needed for, in words.
            fix: What the user may do, as the sentence's end.

        Raises:
            ValueError: If the latents are of another kind.
        """
        if self.include(prior):
            return
        size = prior.event_shape[0]
        kind = "discrete" if prior.has_enumerate_support else "continuous"
        raise ValueError(
            f"the prior has {size} latent dimension{'s' * (size != 1)}, "
            f"{kind}; expected {self.words} for {purpose}{fix}"
        )


def _are_enumerable(prior: Distribution) -> bool:
    return prior.has_enumerate_support and count_states(prior) <= MAX_STATES


def _are_continuous(prior: Distribution) -> bool:
    return not prior.has_enumerate_support


def _are_few(prior: Distribution) -> bool:
    return _are_continuous(prior) and prior.event_shape[0] <= 2


ANY = Latents("any latents", lambda prior: True)
CONTINUOUS = Latents("continuous ones", _are_continuous)
FEW = Latents("one or two continuous ones", _are_few)
DISCRETE = Latents(
    f"discrete ones, with at most {MAX_STATES} configurations,",
    _are_enumerable,
)
