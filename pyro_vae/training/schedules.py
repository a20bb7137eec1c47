"""What changes over a run: the step size and the weight of the KL."""

import math
from collections.abc import Callable

STAGES_2015 = 8  # in Burda et al.


def _iwae_2015(epoch: int, epochs: int) -> float:
    r"""Returns the factor of an epoch, in the schedule of Burda et al.

    Stage i, from 0 to 7, lasts 3^i epochs, with the factor 10^(-i / 7).

    References:
        Importance Weighted Autoencoders, Y. Burda, R. Grosse and
        R. Salakhutdinov, 2015.
    """
    ends = [(3 ** (stage + 1) - 1) // 2 for stage in range(STAGES_2015 - 1)]
    stage = sum(epoch > end for end in ends)
    return 10 ** (-stage / (STAGES_2015 - 1))


# For each schedule the factor of the step size in an epoch: a function of the
# epoch's number, counted from 1, and of the number of epochs.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda epoch, epochs: 1.0,
    "cosine": lambda epoch, epochs: (
        (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
    ),
    "exponential": lambda epoch, epochs: (
        0.01 ** ((epoch - 1) / max(epochs - 1, 1))
    ),
    "iwae-2015": _iwae_2015,
}
# In these schedules every epoch's factor depends on the number of epochs, so
# that a run cannot go on for more epochs than it was started with.
NEED_EPOCHS = ("cosine", "exponential")


def kl_weight(beta: float, step: int, warmup_steps: int) -> float:
    r"""Returns the weight of the KL at a step.

    .. math:: \beta \min(1, t / T)

    Args:
        beta: The weight after the warm-up.
        step: t, the number of the step, counted from 1.
        warmup_steps: T, the number of steps in the warm-up; 0 for no warm-up.
    """
    return beta * min(1.0, step / warmup_steps) if warmup_steps else beta
