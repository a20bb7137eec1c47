"""The figure of benchmark.py: the time that a step takes."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pyro_vae.figures.style import (
    DASHES,
    PALETTE,
    TICK_SIZE,
    Ending,
    colors_of,
    make_figure,
    name_lines,
    on_slides,
)


@on_slides
def draw_benchmark(steps: pd.DataFrame, baseline: str) -> Figure:
    """Draws the time of a step, and how it grows with the batch.

    Args:
        steps: A row for each pair, batch size and rival, with the columns
            `what` (the pair), `batch_size`, `rival` and `ms`.
        baseline: The rival that the bars' ratios are taken against.
    """
    pairs = list(steps["what"].unique())
    figure = make_figure(7 * max(2, len(pairs)), 11)
    grid = figure.add_gridspec(2, len(pairs), height_ratios=(1, 1.1))
    bars: list[Axes] = []
    for index, pair in enumerate(pairs):
        axes = figure.add_subplot(
            grid[0, index], sharey=bars[0] if bars else None
        )
        chosen = steps[steps["what"] == pair]
        sizes = list(chosen["batch_size"].unique())
        size = 128 if 128 in sizes else sizes[0]
        _draw_bars(axes, chosen[chosen["batch_size"] == size], baseline)
        axes.set_title(f"{pair}, batch {size:.0f}")
        axes.tick_params(axis="y", labelleft=not bars)
        bars.append(axes)
    bars[0].invert_yaxis()
    lines = figure.add_subplot(grid[1, :])
    lines.set_title(f"{pairs[0]}, any batch")
    endings = _draw_lines(lines, steps[steps["what"] == pairs[0]])
    figure.draw_without_rendering()
    name_lines(lines, endings, side="left")
    return figure


def _draw_bars(axes: Axes, steps: pd.DataFrame, baseline: str) -> None:
    ms = dict(zip(steps["rival"], steps["ms"], strict=True))
    is_ours = [name.startswith("pyro_vae") for name in ms]
    colors = [PALETTE[0] if ours else "0.75" for ours in is_ours]
    hatches = ["//" if ours else "" for ours in is_ours]
    drawn = axes.barh(
        list(ms), list(ms.values()), color=colors, hatch=hatches, ec="0.3"
    )
    labels = [f"{t:.2f} ms, {ms[baseline] / t:.1f}x" for t in ms.values()]
    axes.bar_label(drawn, labels, padding=3, fontsize=TICK_SIZE)
    axes.margins(x=0.3)
    axes.tick_params(labelsize=TICK_SIZE)
    axes.set_xlabel("ms a step (median)")


def _draw_lines(axes: Axes, steps: pd.DataFrame) -> list[Ending]:
    """Draws a line for each rival, and returns where they begin."""
    rivals = list(steps["rival"].unique())
    endings = []
    for index, (rival, color) in enumerate(
        zip(rivals, colors_of(len(rivals)), strict=True)
    ):
        rows = steps[steps["rival"] == rival].sort_values("batch_size")
        axes.plot(
            rows["batch_size"],
            rows["ms"],
            marker="os^Dv"[index % 5],
            label=rival,
            color=color,
            linestyle=DASHES[index % len(DASHES)],
        )
        first = rows.iloc[0]  # where the rivals differ most
        endings.append(Ending(first["batch_size"], first["ms"], rival, color))
    axes.set(
        xscale="log", yscale="log", xlabel="batch size", ylabel="ms a step"
    )
    axes.set_xticks(sorted(steps["batch_size"].unique()), minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=TICK_SIZE)
    axes.yaxis.set_ticks_position("right")
    axes.yaxis.set_label_position("right")
    axes.spines["left"].set_visible(False)
    axes.grid(alpha=0.3)
    return endings
