"""The last line of a fit: how good it has become, and how to go on."""

from collections.abc import Sequence

from pyro_vae.config import Config
from pyro_vae.runs.history import Record
from pyro_vae.runs.models import BEST
from pyro_vae.training import best_epoch, find_rise
from pyro_vae.training.schedules import NEED_EPOCHS


def sum_up(records: Sequence[Record], config: Config, go_on: str) -> str:
    """Returns how good a run has become, in words.

    Args:
        records: Its history.
        config: Its choices.
        go_on: The command that resumes it.
    """
    last = describe_epoch(records[-1])
    if config.early_stopping is not None:
        best = best_epoch(records, config.warmup)
        if best is None:
            return last
        return (
            f"{last}; by the validation set the best, kept in {BEST}: "
            f"{describe_epoch(records[best])}"
        )
    rise = find_rise(records)
    if rise is None:
        return last
    twice = f"--epochs {2 * (len(records) - 1)}"
    advice = f"to go on: {go_on} {twice}"
    if config.schedule in NEED_EPOCHS:
        advice = f"start anew with {twice}"
    return f"{last}, still rising by {rise:.2g} nats an epoch; {advice}"


def describe_epoch(record: Record) -> str:
    """Returns the test ELBO of an epoch, in words."""
    return (
        f"test ELBO {record['test_elbo']:.2f} nats per image after epoch "
        f"{record['epoch']:.0f}"
    )
