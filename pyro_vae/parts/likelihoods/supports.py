"""What data a likelihood takes, and the one sentence where they are others."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import constraints

NUM_LEVELS = 256  # of an 8-bit pixel
SLACK = 1e-3  # of a level, which float32 may be off
EXACT = 2**24  # the whole numbers that float32 holds


class Levels(constraints.Constraint):
    r"""The levels of a pixel, :math:`0, 1/(n-1), 2/(n-1), \ldots, 1`.

    Args:
        num_levels: n.
    """

    is_discrete = True

    def __init__(self, num_levels: int = NUM_LEVELS):
        self.num_levels = num_levels

    def check(self, value: Tensor) -> Tensor:
        """Returns where a value is one of the levels."""
        level = value * (self.num_levels - 1)
        is_inside = (level >= -SLACK) & (level <= self.num_levels - 1 + SLACK)
        return is_inside & ((level - level.round()).abs() <= SLACK)


levels = Levels()
# For each support what the data must be, and what to do if they are not.
WORDS: dict[constraints.Constraint, str] = {
    constraints.real: "finite numbers: leave the others out",
    constraints.unit_interval: "numbers in [0, 1]: rescale them",
    constraints.nonnegative_integer: (
        "counts, which are whole numbers of at least 0: pass raw counts, "
        "neither scaled nor logarithms, or take a likelihood of real numbers"
    ),
    levels: (
        "8-bit pixels divided by 255, which are multiples of 1/255 in [0, 1]: "
        "round them to those, or take a likelihood of gray pixels"
    ),
}


def check_data(likelihood: nn.Module, x: Tensor, what: str = "x") -> None:
    """Refuses data that are outside a likelihood's support.

    A likelihood without a `support`, such as a plain module of a user's own, is
    not asked.

    Args:
        likelihood: The likelihood.
        x: Data, `(N, D)`.
        what: The data in words.

    Raises:
        ValueError: If a value is outside, or is NaN where the likelihood does
            not take missing values.
    """
    name = type(likelihood).__name__
    missing = x.isnan()
    if missing.any() and not getattr(likelihood, "takes_missing", False):
        count = int(missing.any(-1).sum())
        raise ValueError(
            f"{what} has NaN in {count} of {len(x)} rows, which {name} does "
            "not take; expected finite values: leave those rows out, or build "
            "the VAE with missing=True, for which NaN is not observed"
        )
    support = getattr(likelihood, "support", None)
    if not isinstance(support, constraints.Constraint):
        return
    is_inside = support.check(x)
    if support is constraints.real:
        is_inside = x.isfinite()
    outside = ~(is_inside | missing)
    if not outside.any():
        return
    value = x[outside][0].item()
    expected = WORDS.get(support, f"values in its support, {support}")
    raise ValueError(
        f"{what} holds {value:g}, outside the support of {name}; expected "
        f"{expected}"
    )


def bits_per_dimension(
    likelihood: nn.Module, log_p: float, x: Tensor
) -> float | None:
    r"""Returns minus a mean log-probability, or its bound, in bits.

    .. math:: -\frac{\log p}{D \log 2}

    Args:
        likelihood: The likelihood.
        log_p: The mean over images, in nats.
        x: The images, `(N, D)`. D is the mean number of observed values.

    Returns:
        Bits per dimension; None unless p(x | z) is a probability of a pixel's
        levels, for of a density they mean nothing.
    """
    if not isinstance(getattr(likelihood, "support", None), Levels):
        return None
    observed = int((~x.isnan()).sum()) / len(x)
    return -log_p / observed / math.log(2)


def count_levels(x: Tensor) -> Tensor:
    """Returns 8-bit pixels in [0, 1] as integers from 0 to 255."""
    return (x * (NUM_LEVELS - 1)).round().to(torch.long)
