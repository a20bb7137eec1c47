"""The figure of gradient_estimators.py: bias, variance and cost."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.style import (
    PALETTE,
    TICK_SIZE,
    make_figure,
    on_slides,
)

BLOCKS = ("encoder", "decoder")
# Standard errors to either side: the bars of an unbiased estimator miss zero in
# 2 cases of 100,000, the failure rate of tests/statistics.py.
ERROR_BARS = 4.26


@on_slides
def draw_gradient_estimators(table: pd.DataFrame) -> Figure:
    """Draws each estimator's bias, variance and cost.

    Args:
        table: A row for each estimator and block of parameters, with the
            columns `estimator`, `block`, `bias_along`, `bias_along_se`,
            `variance` and `ms`. Biases are relative to the reference
            gradient's size, variances to its square.
    """
    names = list(table["estimator"].unique())
    figure = make_figure(14, 2.4 + 0.55 * len(names))
    panels = figure.subplots(1, 3, sharey=True)
    bias, variance, cost = panels
    places = np.arange(len(names))
    _draw_blocks(bias, variance, table, names)
    ms = table.groupby("estimator", sort=False)["ms"].mean()
    drawn = cost.barh(places, ms[names], color="0.7")
    cost.bar_label(drawn, fmt="%.0f", padding=3, fontsize=TICK_SIZE)
    cost.margins(x=0.15)
    bias.set_xlabel("bias along the gradient,\nover the gradient's size")
    variance.set_xlabel("variance,\nover the size squared")
    cost.set_xlabel("milliseconds a gradient,\nmedian")
    bias.set_xscale("symlog", linthresh=0.1)
    bias.set_xticks([-1, -0.1, 0, 0.1, 1], ["-1", "-0.1", "0", "0.1", "1"])
    bias.set_yticks(places, names)
    bias.invert_yaxis()
    bias.axvline(0, color="black", linewidth=0.8)
    variance.set_xscale("log")
    handles, labels = variance.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    for axes in panels:
        axes.tick_params(labelsize=TICK_SIZE)
        axes.grid(axis="x", alpha=0.3)
    return figure


def _draw_blocks(
    bias: Axes, variance: Axes, table: pd.DataFrame, names: list[str]
) -> None:
    """Draws bars of each block of parameters beside each other."""
    places = np.arange(len(names))
    for index, block in enumerate(BLOCKS):
        rows = table[table["block"] == block].set_index("estimator")
        rows = rows.reindex(names)
        shifted = places + 0.36 * (index - 0.5)
        style = {
            "height": 0.34,
            "color": PALETTE[index],
            "hatch": ("", "//")[index],
            "edgecolor": "0.2",
            "linewidth": 0.5,
            "label": f"gradient of the {block}",
        }
        errors = ERROR_BARS * rows["bias_along_se"]
        bars = {"capsize": 3, "elinewidth": 1.2}
        bias.barh(
            shifted, rows["bias_along"], xerr=errors, error_kw=bars, **style
        )
        # An estimator without variance has rounding errors: no bar.
        drawn = rows["variance"].where(rows["variance"] > 1e-9)
        variance.barh(shifted, drawn, **style)
