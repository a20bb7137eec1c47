"""How long a fit is by default, and what its history says of how it ended."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from pyro_vae.config import FitConfig
from pyro_vae.runs.history import Record

EPOCHS, STEPS, MOST_EPOCHS = 20, 2500, 1000
COLLAPSED = 0.05  # nats of KL, as the mean over the test images
OVERFIT = 1.0  # nats of the test ELBO lost since the best epoch
WORTH_GOING_ON = 0.5  # nats to expect of as many epochs again

ConfigT = TypeVar("ConfigT", bound=FitConfig)


def with_epochs(config: ConfigT, num_batches: int) -> ConfigT:
    """Returns a configuration that says its number of epochs.

    By default these are 20 passes over the images, and more where they are
    few: as many as make 2,500 steps, but at most 1,000.

    Args:
        config: The configuration; it stays as it is if it has `epochs`.
        num_batches: The number of steps in an epoch.
    """
    if config.epochs is not None:
        return config
    epochs = min(max(EPOCHS, math.ceil(STEPS / num_batches)), MOST_EPOCHS)
    return replace(config, epochs=epochs)


def find_rise(records: Sequence[Record]) -> float | None:
    """Returns by how much the test ELBO rises in an epoch, if it still does.

    It is the slope of a line through the last third of the records, in nats
    per image. It counts as a rise if it is more than twice its standard error,
    and if as many epochs again would bring half a nat at that pace.

    Args:
        records: A record for each epoch from 0 on.

    Returns:
        The slope; None where the test ELBO does not rise.
    """
    count = max(2, (len(records) - 1) // 3)
    values = [record["test_elbo"] for record in records[-count:]]
    if len(records) < 2:
        return None
    epochs = np.arange(len(values)) - (len(values) - 1) / 2
    slope = float(epochs @ np.asarray(values) / (epochs @ epochs))
    rest = np.asarray(values) - np.mean(values) - slope * epochs
    freedom = max(1, len(values) - 2)
    error = math.sqrt(float(rest @ rest) / freedom / float(epochs @ epochs))
    is_rise = slope > 2 * error and slope * len(records) > WORTH_GOING_ON
    return slope if is_rise else None


def find_faults(records: Sequence[Record]) -> list[str]:
    """Returns what is wrong with how a fit ended, in sentences; [] if nothing.

    That the ELBO fell below where it began, that the latents say nothing of
    the images (posterior collapse), or that the test ELBO was better before.

    Args:
        records: A record for each epoch from 0 on.
    """
    first, last = records[0], records[-1]
    elbo = last["test_elbo"]
    if elbo < first["test_elbo"]:
        return [
            f"the test ELBO, {elbo:.2f}, is below that before training, "
            f"{first['test_elbo']:.2f}: try a smaller learning_rate, or "
            "gradient_clip"
        ]
    faults = []
    if last.get("components_used", math.inf) == 1:
        faults.append(
            "all test images are in one state (posterior collapse): try more "
            "epochs, or a smaller noise_scale to begin with"
        )
    elif last["test_kl"] < COLLAPSED:
        faults.append(
            f"the KL is {last['test_kl']:.2f} nats, so that the latents say "
            "nothing of the images (posterior collapse): try more epochs, a "
            "warmup, or a smaller noise_scale to begin with"
        )
    best = max(records, key=lambda record: record["test_elbo"])
    if best["test_elbo"] > elbo + OVERFIT:
        faults.append(
            f"the test ELBO was {best['test_elbo']:.2f} after epoch "
            f"{best['epoch']:.0f} and has fallen since: try early_stopping=20, "
            "which keeps the best weights, or fewer epochs"
        )
    return faults
