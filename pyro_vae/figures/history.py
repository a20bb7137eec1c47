"""The ELBO of one run, or of several, against epochs and seconds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.style import DPI, Array, write_plainly

History = Mapping[str, Array]


def elbo_curves(records: Sequence[Mapping[str, float]]) -> Figure:
    """Draws the training and test ELBO of a run against its epochs.

    Args:
        records: The records that `fit` yielded, with or without a
            `validation_elbo`. The first one, from before training, is far
            below the others: the title states it and no curve shows it.
    """
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    drawn = records[1:] or records
    epochs = [record["epoch"] for record in drawn]
    for key, label in [
        ("train_elbo", "training, mean over the epoch"),
        ("validation_elbo", "validation, after the epoch"),
        ("test_elbo", "test, after the epoch"),
    ]:
        if key not in records[0]:
            continue
        values = [record[key] for record in drawn]
        axes.plot(epochs, values, marker=".", label=label)
    axes.set_title(
        f"ELBO; {records[0]['test_elbo']:.1f} before training, "
        f"{records[-1]['test_elbo']:.1f} at the end (test)"
    )
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per image")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def compare_histories(groups: Mapping[str, Sequence[History]]) -> Figure:
    """Draws the test ELBO of groups of runs, against epochs and seconds.

    A group of several runs is drawn as its mean, with a band of one standard
    deviation to either side.

    Args:
        groups: For each label, which is drawn letter by letter, the histories
            of runs that differ by seed alone: arrays `epoch`, `seconds` and
            `test_elbo`, `(E,)` each. Runs of one group may differ in length;
            the epochs that all of them have are drawn.
    """
    figure = Figure(figsize=(11, 4.5), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for index, (label, histories) in enumerate(groups.items()):
        for axes, key in zip(panels, ("epoch", "seconds"), strict=True):
            _draw_group(axes, key, label, histories, f"C{index}")
    for axes, key in zip(panels, ("epoch", "seconds"), strict=True):
        axes.set_xlabel(key)
        axes.grid(alpha=0.3)
    panels[0].locator_params(axis="x", integer=True)
    panels[0].set_ylabel("test ELBO, nats per image")
    write_plainly(*panels[0].legend().get_texts())
    return figure


def _draw_group(
    axes: Axes, key: str, label: str, histories: Sequence[History], color: str
) -> None:
    """Draws the mean and spread of the test ELBO against one column."""
    # A killed or longer run must not bend the mean: the common epochs.
    length = min(len(history["epoch"]) for history in histories)
    first = 1 if length > 1 else 0  # epoch 0 would dwarf the rest
    kept = slice(first, length)
    elbo = np.array([history["test_elbo"][kept] for history in histories])
    along = np.mean([history[key][kept] for history in histories], axis=0)
    mean, spread = elbo.mean(0), elbo.std(0)
    if len(histories) > 1:
        label = f"{label} ({len(histories)})"
        low, high = mean - spread, mean + spread
        axes.fill_between(
            along, low, high, color=color, alpha=0.25, linewidth=0
        )
    axes.plot(along, mean, marker=".", label=label, color=color)
