"""The figure of benchmark.py: the time that a step takes."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.style import DPI, colors_of


def draw_benchmark(steps: pd.DataFrame, baseline: str) -> Figure:
    """Draws the time of a step, and how it grows with the batch.

    Args:
        steps: A row for each pair, batch size and rival, with the columns
            `what` (the pair), `batch_size`, `rival` and `ms`.
        baseline: The rival that the bars' ratios are taken against.
    """
    pairs = list(steps["what"].unique())
    figure = Figure(
        figsize=(6 * (len(pairs) + 1), 5), dpi=DPI, layout="constrained"
    )
    *bars, lines = figure.subplots(1, len(pairs) + 1)
    for axes, pair in zip(bars, pairs, strict=True):
        chosen = steps[steps["what"] == pair]
        sizes = list(chosen["batch_size"].unique())
        size = 128 if 128 in sizes else sizes[0]
        _draw_bars(axes, chosen[chosen["batch_size"] == size], baseline)
        axes.set_title(f"{pair}, batch {size:.0f}")
    _draw_lines(lines, steps[steps["what"] == pairs[0]])
    lines.set_title(pairs[0])
    return figure


def _draw_bars(axes: Axes, steps: pd.DataFrame, baseline: str) -> None:
    ms = dict(zip(steps["rival"], steps["ms"], strict=True))
    colors = ["C0" if name.startswith("pyro_vae") else "0.7" for name in ms]
    drawn = axes.barh(list(ms), list(ms.values()), color=colors)
    labels = [f"{t:.2f} ms, {ms[baseline] / t:.1f}x" for t in ms.values()]
    axes.bar_label(drawn, labels, padding=3, fontsize="x-small")
    axes.margins(x=0.35)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize="x-small")
    axes.set_xlabel("ms a step (median)")


def _draw_lines(axes: Axes, steps: pd.DataFrame) -> None:
    colors = colors_of(20)
    for index, (rival, group) in enumerate(steps.groupby("rival", sort=False)):
        axes.plot(
            group["batch_size"],
            group["ms"],
            marker=".",
            label=rival,
            color=colors[index % 20],
            linestyle="--" if rival.startswith("floor") else "-",
        )
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="ms")
    axes.legend(fontsize="x-small")
    axes.grid(alpha=0.3)
