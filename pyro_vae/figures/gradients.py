"""Gradient estimators side by side."""

import numpy as np
from matplotlib.figure import Figure

from pyro_vae.figures.style import DPI, colors_of

BLOCKS = ("encoder", "decoder")


def gradients(table) -> Figure:
    """Draws each estimator's bias, variance and cost.

    Args:
        table: A data frame with the columns `estimator`, `block`,
            `bias_along`, `bias_along_se`, `variance` and `ms`. Biases and
            variances are relative to the reference gradient.
    """
    names = list(table["estimator"].unique())
    figure = Figure(
        figsize=(12, 1.5 + 0.4 * len(names)), dpi=DPI, layout="constrained"
    )
    panels = figure.subplots(1, 3, sharey=True)
    titles = (
        "bias along the gradient, / size",
        "variance, / size squared",
        "ms a gradient (median)",
    )
    places = np.arange(len(names))
    for index, block in enumerate(BLOCKS):
        of_block = table[table["block"] == block].set_index("estimator")
        of_block = of_block.reindex(names)
        shifted = places + 0.36 * (index - 0.5)
        style = {"height": 0.34, "color": colors_of(2)[index], "label": block}
        panels[0].barh(
            shifted,
            of_block["bias_along"],
            xerr=4.26 * of_block["bias_along_se"],
            **style,
        )
        # An estimator without variance has rounding errors: no bar.
        variance = of_block["variance"]
        panels[1].barh(shifted, variance.where(variance > 1e-9), **style)
    cost = table.groupby("estimator", sort=False)["ms"].mean()
    panels[2].barh(places, cost[names], color="0.7")
    panels[0].set_xscale("symlog", linthresh=0.1)
    panels[1].set_xscale("log")
    panels[0].set_yticks(places, names)
    panels[0].invert_yaxis()
    panels[0].axvline(0, color="black", linewidth=0.8)
    panels[1].legend()
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
    return figure
