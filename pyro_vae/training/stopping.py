"""Early stopping: which epoch was the best, and when to stop."""

from collections.abc import Sequence

from pyro_vae.config import FitConfig
from pyro_vae.runs.history import Record


def best_epoch(records: Sequence[Record], warmup: int = 0) -> int | None:
    """Returns the epoch of the best validation ELBO since the warm-up.

    Args:
        records: A record for each epoch from 0 on, with a `validation_elbo`.
        warmup: The number of epochs before the KL had its whole weight.

    Returns:
        The first of the best epochs; None before the end of the warm-up.
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
    """Returns whether `patience` epochs have passed since the best one.

    Args:
        records: A record for each epoch from 0 on, with a `validation_elbo`.
        patience: The number of epochs to wait for a better one.
        warmup: The number of epochs before the KL had its whole weight.
    """
    best = best_epoch(records, warmup)
    return best is not None and len(records) - 1 - best >= patience


def is_over(records: Sequence[Record], config: FitConfig) -> bool:
    """Returns whether a run has no epoch left to do.

    Args:
        records: A record for each epoch from 0 on.
        config: The choices of the run, with its number of epochs.
    """
    patience = config.early_stopping
    return len(records) - 1 >= (config.epochs or 0) or (
        patience is not None and has_stalled(records, patience, config.warmup)
    )
