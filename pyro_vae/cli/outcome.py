"""The last line of a fit: how good it has become, and how to go on."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from pyro_vae.cli.evaluation_file import warn_of_older
from pyro_vae.config import Config
from pyro_vae.runs.history import Record
from pyro_vae.runs.models import BEST
from pyro_vae.training import best_epoch, find_faults, find_rise
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


def warn_of_faults(folder: Path, records: Sequence[Record]) -> None:
    """Warns of what is wrong with how a run ended, and what to try.

    Args:
        folder: Its folder, whose evaluation may be of older weights.
        records: Its history.
    """
    warn_of_older(folder, int(records[-1]["epoch"]))
    for fault in find_faults(records):
        warnings.warn(fault, stacklevel=2)


def describe_epoch(record: Record) -> str:
    """Returns the test ELBO of an epoch, in words."""
    return (
        f"test ELBO {record['test_elbo']:.2f} nats per image after epoch "
        f"{record['epoch']:.0f}"
    )
