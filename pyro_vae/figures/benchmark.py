"""The benchmark's picture."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.style import DPI, colors_of


def benchmark(steps, baseline: str) -> Figure:
    """Draws the time of a step, and how it grows with the batch.

    Args:
        steps: A data frame with the columns `what`, `batch_size`, `rival` and
            `ms`.
        baseline: The rival that ratios are taken against.
    """
    kinds = list(steps["what"].unique())
    figure = Figure(
        figsize=(6 * (len(kinds) + 1), 5), dpi=DPI, layout="constrained"
    )
    *bars, lines = figure.subplots(1, len(kinds) + 1)
    for axes, kind in zip(bars, kinds, strict=True):
        chosen = steps[steps["what"] == kind]
        sizes = list(chosen["batch_size"].unique())
        size = 128 if 128 in sizes else sizes[0]
        _bars(axes, chosen[chosen["batch_size"] == size], baseline)
        axes.set_title(f"{kind}, batch {size:.0f}")
    first = steps[steps["what"] == kinds[0]]
    for index, (rival, group) in enumerate(first.groupby("rival", sort=False)):
        lines.plot(
            group["batch_size"],
            group["ms"],
            marker=".",
            label=rival,
            color=colors_of(20)[index % 20],
            linestyle="--" if rival.startswith("floor") else "-",
        )
    lines.set(xscale="log", yscale="log", xlabel="batch size", ylabel="ms")
    lines.set_title(kinds[0])
    lines.legend(fontsize="x-small")
    lines.grid(alpha=0.3)
    return figure


def _bars(axes: Axes, steps, baseline: str) -> None:
    ms = dict(zip(steps["rival"], steps["ms"], strict=True))
    colors = ["C0" if name.startswith("pyro_vae") else "0.7" for name in ms]
    drawn = axes.barh(list(ms), list(ms.values()), color=colors)
    labels = [f"{t:.2f} ms, {ms[baseline] / t:.1f}x" for t in ms.values()]
    axes.bar_label(drawn, labels, padding=3, fontsize="x-small")
    axes.margins(x=0.35)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize="x-small")
    axes.set_xlabel("ms a step (median)")
