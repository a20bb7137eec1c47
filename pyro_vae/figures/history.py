"""The ELBO of one run, or of several, against epochs and seconds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.style import (
    DASHES,
    PALETTE,
    TICK_SIZE,
    Array,
    Ending,
    colors_of,
    make_figure,
    name_lines,
    on_slides,
    shapes_of,
)

History = Mapping[str, Array]

MOST_DOTS = 40  # epochs
STEEP = 0.2  # of the values, which may lie below the picture
BELOW = 0.2  # of the others' range, shown below them


@on_slides
def elbo_curves(records: Sequence[Mapping[str, float]]) -> Figure:
    """Draws the training and test ELBO of a run against its epochs.

    Args:
        records: The records that `fit` yielded, with or without a
            `validation_elbo`. The first one, from before training, is far
            below the others: the title states it and no curve shows it. Nor
            does the picture go down to first epochs that would dwarf the rest.

    Examples:
        >>> from pyro_vae.figures import elbo_curves
        >>> rows = [(0, -90, -91), (1, 20, 25), (2, 30, 29)]
        >>> keys = ("epoch", "train_elbo", "test_elbo")
        >>> figure = elbo_curves([dict(zip(keys, row)) for row in rows])
    """
    figure = make_figure(8.5, 5)
    axes = figure.subplots()
    drawn = records[1:] or records
    epochs = [record["epoch"] for record in drawn]
    endings, everything = [], []
    for key, label, color, dash in (
        ("train_elbo", "training, mean\nover the epoch", PALETTE[1], "--"),
        ("validation_elbo", "validation,\nafter the epoch", PALETTE[4], ":"),
        ("test_elbo", "test, after\nthe epoch", PALETTE[0], "-"),
    ):
        if key not in records[0]:
            continue
        values = [record[key] for record in drawn]
        marker = "o" if len(epochs) <= MOST_DOTS else ""
        axes.plot(epochs, values, dash, color=color, marker=marker, ms=4)
        endings.append(Ending(epochs[-1], values[-1], label, color))
        everything += values
    axes.set_title(
        f"ELBO: {records[0]['test_elbo']:.1f} before training, "
        f"{records[-1]['test_elbo']:.1f} at the end (test)"
    )
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per image")
    show_the_end(axes, np.array(everything))
    figure.draw_without_rendering()  # names are placed in the final axes
    name_lines(axes, endings, lines=2)
    return figure


@on_slides
def compare_histories(groups: Mapping[str, Sequence[History]]) -> Figure:
    """Draws the test ELBO of groups of runs, against epochs and seconds.

    A group of several runs is drawn as its mean, with a band of one standard
    deviation to either side. The picture does not go down to first epochs that
    would dwarf the rest.

    Args:
        groups: For each label, which is drawn letter by letter, the histories
            of runs that differ by seed alone: arrays `epoch`, `seconds` and
            `test_elbo`, `(E,)` each. Runs of one group may differ in length;
            the epochs that all of them have are drawn.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import compare_histories
        >>> epoch = np.arange(4.0)
        >>> one = {"epoch": epoch, "seconds": 2 * epoch, "test_elbo": epoch}
        >>> two = {**one, "test_elbo": 1.5 * epoch}
        >>> figure = compare_histories({"normal": [one], "laplace": [two]})
    """
    longest = max(map(len, groups), default=0)
    figure = make_figure(12 + min(4, 0.08 * longest), 5.5)
    panels = figure.subplots(1, 2, sharey=True)
    styles = zip(
        colors_of(len(groups)), shapes_of(len(groups), DASHES), strict=True
    )
    endings, everything = [], []
    for (label, histories), style in zip(groups.items(), styles, strict=True):
        for axes, key in zip(panels, ("epoch", "seconds"), strict=True):
            ending, values = _draw_group(axes, key, label, histories, style)
        endings.append(ending)
        everything.append(values)
    for axes, key in zip(panels, ("epoch", "seconds"), strict=True):
        axes.set_xlabel(key)
        axes.tick_params(labelsize=TICK_SIZE)
        axes.grid(alpha=0.3)
    panels[0].locator_params(axis="x", integer=True)
    panels[0].set_ylabel("test ELBO, nats per image")
    show_the_end(panels[1], np.concatenate(everything))
    figure.draw_without_rendering()
    name_lines(panels[1], endings)
    return figure


def show_the_end(axes: Axes, values: Array) -> None:
    """Limits axes upward to most values, if the least dwarf the others.

    Args:
        axes: The axes.
        values: All values that are drawn.
    """
    axes.tick_params(labelsize=TICK_SIZE)
    axes.grid(alpha=0.3)
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, STEEP), finite.max()
    bottom = low - BELOW * (high - low)
    if finite.min() < bottom < high:
        axes.set_ylim(bottom, high + 0.05 * (high - bottom))


def _draw_group(
    axes: Axes,
    key: str,
    label: str,
    histories: Sequence[History],
    style: tuple[Any, Any],
) -> tuple[Ending, Array]:
    """Draws the mean and spread of the test ELBO against one column.

    Returns:
        The end of the line, and its values.
    """
    # A killed or longer run must not bend the mean: the common epochs.
    length = min(len(history["epoch"]) for history in histories)
    first = 1 if length > 1 else 0  # epoch 0 would dwarf the rest
    kept = slice(first, length)
    elbo = np.array([history["test_elbo"][kept] for history in histories])
    along = np.mean([history[key][kept] for history in histories], axis=0)
    mean, spread = elbo.mean(0), elbo.std(0)
    color, dash = style
    if len(histories) > 1:
        label = f"{label} ({len(histories)})"
        low, high = mean - spread, mean + spread
        axes.fill_between(
            along, low, high, color=color, alpha=0.25, linewidth=0
        )
    axes.plot(along, mean, color=color, linestyle=dash)
    return Ending(along[-1], mean[-1], label, color), mean
