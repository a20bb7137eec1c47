"""Bars of how many images each discrete state takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pyro_vae.figures.latents import Labels
from pyro_vae.figures.style import (
    MAX_KINDS,
    TICK_SIZE,
    Array,
    colors_of,
    make_figure,
    on_slides,
)

MAX_TICKS = 70  # states whose numbers fit below their bars
LEAST_PART = 0.045  # of the highest bar, with room for a label in it


@on_slides
def state_usage(
    states: NDArray[np.integer], labels: Labels | None, num_states: int
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
    kinds = [None] if labels is None else list(np.unique(labels))
    palette = colors_of(len(kinds))
    figure = make_figure(12, 5.5)
    axes = figure.subplots()
    bottom = np.zeros(len(used))
    for kind, color in zip(kinds, palette, strict=True):
        of_kind = states if kind is None else states[labels == kind]
        heights = (of_kind[:, None] == used).sum(0)
        bars = axes.bar(
            range(len(used)),
            heights,
            bottom=bottom,
            color=color,
            edgecolor="white",
            linewidth=0.6,
        )
        if kind is not None:
            names = [
                str(kind) if height >= LEAST_PART * counts.max() else ""
                for height in heights
            ]
            size = TICK_SIZE if len(used) <= 30 else 8
            axes.bar_label(
                bars,
                names,
                label_type="center",
                fontsize=size,
                color="white",
                weight="bold",
            )
        bottom += heights
    axes.tick_params(labelsize=TICK_SIZE)
    axes.margins(x=0.01)
    if len(used) <= MAX_TICKS:
        axes.set_xticks(range(len(used)), used)
        axes.set_xlabel("number of the state, the fullest first")
        if len(used) > 30:
            axes.tick_params(axis="x", labelsize=8, rotation=90)
    else:
        axes.set_xlabel("rank of the state, the fullest first")
    axes.set_ylabel("test images")
    axes.set_title(f"{len(used)} of {num_states} states have a test image")
    if labels is not None and len(kinds) <= MAX_KINDS:
        _draw_legend(axes, kinds, palette)
    return figure


def _draw_legend(axes: Axes, kinds: Sequence[Any], colors: Array) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="s",
            markersize=9,
            color=color,
            label=str(kind),
        )
        for kind, color in zip(kinds, colors, strict=True)
    ]
    axes.legend(
        handles=handles,
        title="label",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        ncols=1 + (len(handles) - 1) // 16,
    )
