"""Bars of how many images each discrete state takes."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pyro_vae.figures.latents import Labels, draw_legend, make_handle
from pyro_vae.figures.style import (
    MAX_KINDS,
    TICK_SIZE,
    colors_of,
    make_figure,
    on_slides,
)

States = NDArray[np.integer[Any]]

LIGHTNESS = (0.299, 0.587, 0.114, 0)  # of the channels of a color
MAX_LARGE = 30  # states whose numbers fit in large type
MAX_TICKS = 70  # states whose numbers fit below their bars
LEAST_PART = 0.045  # of the highest bar, with room for a label in it


@on_slides
def state_usage(
    states: States, labels: Labels | None, num_states: int
) -> Figure:
    """Draws how many images are in each discrete state, colored by label.

    The fullest states come first; those without an image are counted in the
    title alone. Each label is written in its part of a bar, where there is
    room.

    Args:
        states: The state of each image, `(N,)` integers.
        labels: `(N,)` integers, or None.
        num_states: The number of states that the prior has.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import state_usage
        >>> states = np.array([2, 0, 2, 2])
        >>> figure = state_usage(states, np.array([7, 7, 9, 7]), num_states=5)
    """
    used, counts = np.unique(states, return_counts=True)
    used = used[np.argsort(-counts, kind="stable")]
    figure = make_figure(12, 5.5)
    axes = figure.subplots()
    handles = _draw_bars(axes, states, labels, used)
    axes.tick_params(labelsize=TICK_SIZE)
    axes.margins(x=0.01)
    if len(used) <= MAX_TICKS:
        axes.set_xticks(range(len(used)), used)
        axes.set_xlabel("number of the state, the fullest first")
        if len(used) > MAX_LARGE:
            axes.tick_params(axis="x", labelsize=8, rotation=90)
    else:
        axes.set_xlabel("rank of the state, the fullest first")
    axes.set_ylabel("test images")
    axes.set_title(f"{len(used)} of {num_states} states have a test image")
    if len(handles) <= MAX_KINDS:
        draw_legend(axes, handles, "label")
    return figure


def _draw_bars(
    axes: Axes, states: States, labels: Labels | None, used: States
) -> list[Line2D]:
    """Draws stacks of bars, and returns the entries of the legend."""
    kinds = [None] if labels is None else list(np.unique(labels))
    colors = colors_of(len(kinds))
    groups = [
        states if kind is None else states[labels == kind] for kind in kinds
    ]
    heights = np.array([(one[:, None] == used).sum(0) for one in groups])
    size = TICK_SIZE if len(used) <= MAX_LARGE else 8
    bottom = np.zeros(len(used))
    for kind, height, color in zip(kinds, heights, colors, strict=True):
        bars = axes.bar(range(len(used)), height, bottom=bottom, color=color)
        for bar in bars:
            bar.set(edgecolor="white", linewidth=0.6)
        if kind is not None:
            has_room = height >= LEAST_PART * heights.sum(0).max()
            names = [str(kind) if room else "" for room in has_room]
            for text in axes.bar_label(bars, names, label_type="center"):
                text.set(fontsize=size, weight="bold")
                text.set_color("white" if color @ LIGHTNESS < 0.6 else "black")
        bottom += height
    if labels is None:
        return []
    return [
        make_handle(kind, color, "s")
        for kind, color in zip(kinds, colors, strict=True)
    ]
