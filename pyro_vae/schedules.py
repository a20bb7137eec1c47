"""What changes from epoch to epoch: step size, weight of the KL, the end."""

import math
from collections.abc import Callable, Sequence

from pyro_vae.traces import Record

STAGES_2015 = 8  # of Burda et al.


def _iwae_2015(epoch: int, epochs: int) -> float:
    r"""Stage i = 0..7 lasts 3^i epochs, at a factor of 10^(-i / 7).

    References:
        Importance Weighted Autoencoders, Y. Burda, R. Grosse and
        R. Salakhutdinov, 2015.
    """
    ends = [(3 ** (stage + 1) - 1) // 2 for stage in range(STAGES_2015 - 1)]
    stage = sum(epoch > end for end in ends)
    return 10 ** (-stage / (STAGES_2015 - 1))


# Factors of the step size in epoch 1, 2, ... of so many.
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
# Those whose every epoch depends on how many there will be.
NEED_EPOCHS = ("cosine", "exponential")


def kl_weight(beta: float, step: int, warmup_steps: int) -> float:
    r"""The weight of the KL at a step, which counts from 1.

    .. math:: \beta \min(1, t / T)

    Args:
        beta: The weight after the warm-up.
        step: t.
        warmup_steps: T; 0 for no warm-up.
    """
    return beta * min(1.0, step / warmup_steps) if warmup_steps else beta


def best_epoch(records: Sequence[Record], warmup: int = 0) -> int | None:
    """The epoch of the best validation ELBO since the warm-up, if any.

    Args:
        records: One for each epoch from 0 on.
        warmup: The epochs before the KL had its whole weight.
    """
    candidates = range(warmup, len(records))
    return max(
        candidates,
        key=lambda epoch: records[epoch]["validation_elbo"],
        default=None,
    )


def has_stalled(
    records: Sequence[Record], patience: int, warmup: int = 0
) -> bool:
    """Whether `patience` epochs went by since the best one."""
    best = best_epoch(records, warmup)
    return best is not None and len(records) - 1 - best >= patience
