"""The figure of gradient_estimators.py: bias, variance and cost."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pyro_vae.figures.style import DPI, colors_of

BLOCKS = ("encoder", "decoder")
# Standard errors to either side: the bars of an unbiased estimator miss zero in
# 2 cases of 100,000, the failure rate of tests/statistics.py.
ERROR_BARS = 4.26


def draw_gradient_estimators(table: pd.DataFrame) -> Figure:
    """Draws each estimator's bias, variance and cost.

    Args:
        table: A row for each estimator and block of parameters, with the
            columns `estimator`, `block`, `bias_along`, `bias_along_se`,
            `variance` and `ms`. Biases are relative to the reference
            gradient's size, variances to its square.
    """
    names = list(table["estimator"].unique())
    figure = Figure(
        figsize=(12, 1.5 + 0.4 * len(names)), dpi=DPI, layout="constrained"
    )
    panels = figure.subplots(1, 3, sharey=True)
    bias, variance, cost = panels
    places = np.arange(len(names))
    for index, block in enumerate(BLOCKS):
        rows = table[table["block"] == block].set_index("estimator")
        rows = rows.reindex(names)
        shifted = places + 0.36 * (index - 0.5)
        style = {"height": 0.34, "color": colors_of(2)[index], "label": block}
        errors = ERROR_BARS * rows["bias_along_se"]
        bias.barh(shifted, rows["bias_along"], xerr=errors, **style)
        # An estimator without variance has rounding errors: no bar.
        drawn = rows["variance"].where(rows["variance"] > 1e-9)
        variance.barh(shifted, drawn, **style)
    ms = table.groupby("estimator", sort=False)["ms"].mean()
    cost.barh(places, ms[names], color="0.7")
    bias.set_title("bias along the gradient, / size", fontsize="medium")
    variance.set_title("variance, / size squared", fontsize="medium")
    cost.set_title("ms a gradient (median)", fontsize="medium")
    bias.set_xscale("symlog", linthresh=0.1)
    bias.set_yticks(places, names)
    bias.invert_yaxis()
    bias.axvline(0, color="black", linewidth=0.8)
    variance.set_xscale("log")
    variance.legend()
    for axes in panels:
        axes.grid(axis="x", alpha=0.3)
    return figure
