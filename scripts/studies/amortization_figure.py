"""The figure of amortization.py: ways of inference against each other."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from pyro_vae.figures.style import DPI, colors_of


def draw_amortization(table: pd.DataFrame) -> Figure:
    """Draws bounds against time and passes over the data.

    Args:
        table: A row for each way of inference and epoch, with the columns
            `inference`, `epoch`, `train_seconds`, `test_elbo` and
            `log_marginal_likelihood`, which may be NaN in some rows.
    """
    figure = Figure(figsize=(15, 4.8), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    by_time, by_epoch, exact = panels
    _draw_lines(by_time, table, "train_seconds", "test_elbo", ".")
    _draw_lines(by_epoch, table, "epoch", "test_elbo", ".")
    evaluated = table.dropna(subset="log_marginal_likelihood")
    column = "log_marginal_likelihood"
    _draw_lines(exact, evaluated, "train_seconds", column, "o")
    by_time.set(title="test ELBO", xlabel="seconds of training")
    by_epoch.set(title="test ELBO", xlabel="passes over the data")
    exact.set(title="exact log p(x), at the end", xlabel="seconds of training")
    for axes in panels:
        axes.grid(alpha=0.3)
    for axes in (by_time, exact):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would overlap
    # The first epochs would dwarf the rest.
    values = table["test_elbo"].dropna()
    low = values.quantile(0.2)
    by_time.set_ylim(bottom=low - 0.1 * (values.max() - low))
    by_time.set_ylabel("nats per image")
    by_epoch.legend(fontsize="small")
    return figure


def _draw_lines(
    axes: Axes, table: pd.DataFrame, across: str, upward: str, marker: str
) -> None:
    """Draws one column against another, a line for each way of inference."""
    names = list(table["inference"].unique())
    for name, color in zip(names, colors_of(len(names)), strict=True):
        rows = table[table["inference"] == name]
        axes.plot(
            rows[across], rows[upward], color=color, marker=marker, label=name
        )
