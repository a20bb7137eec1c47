"""The figure of amortization.py: ways of inference against each other."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pyro_vae.figures.history import show_the_end
from pyro_vae.figures.style import (
    DASHES,
    PALETTE,
    SHAPES,
    Ending,
    make_figure,
    name_lines,
    on_slides,
)

COLUMNS = ("train_seconds", "test_elbo", "log_marginal_likelihood")


@on_slides
def draw_amortization(table: pd.DataFrame) -> Figure:
    """Draws bounds against time and passes over the data.

    Args:
        table: A row for each way of inference and epoch, with the columns
            `inference`, `epoch`, `train_seconds`, `test_elbo` and
            `log_marginal_likelihood`, which may be NaN in some rows. The ways
            are named by their family and the number of E-steps, as in
            `local, 5`.
    """
    figure = make_figure(15, 5.5)
    panels = figure.subplots(1, 3, sharey=True)
    by_time, by_epoch, exact = panels
    seconds, elbo, log_marginal = COLUMNS
    _draw_lines(by_time, table, seconds, elbo)
    _draw_lines(by_epoch, table, "epoch", elbo)
    evaluated = table.dropna(subset=log_marginal)
    endings = _draw_lines(exact, evaluated, seconds, log_marginal)
    by_time.set(title="test ELBO", xlabel="seconds of training")
    by_epoch.set(title="test ELBO", xlabel="passes over the data")
    exact.set(title="exact log p(x), at the end", xlabel="seconds of training")
    for axes in (by_time, exact):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would overlap
    by_time.set_ylabel("nats per image")
    for axes in panels:
        show_the_end(axes, np.asarray(table[elbo].dropna()))
    highest = table[[elbo, log_marginal]].max().max()
    by_time.set_ylim(top=highest + 0.05 * (highest - by_time.get_ylim()[0]))
    figure.draw_without_rendering()
    name_lines(exact, endings)
    return figure


def _draw_lines(
    axes: Axes, table: pd.DataFrame, across: str, upward: str
) -> list[Ending]:
    """Draws one column against another, a line for each way of inference."""
    endings = []
    for name, (color, dash, shape) in _styles(table).items():
        rows = table[table["inference"] == name]
        axes.plot(
            rows[across],
            rows[upward],
            color=color,
            linestyle=dash,
            marker=shape,
            label=name,
        )
        x, y = rows[across].iloc[-1], rows[upward].iloc[-1]
        family, _, number = name.partition(", ")
        steps = f", {number} E-step{'s' * (number != '1')}" if number else ""
        endings.append(Ending(x, y, family + steps, color))
    return endings


def _styles(table: pd.DataFrame) -> dict[str, tuple[str, Any, str]]:
    """Returns a color for each family, a dash and a shape for each number."""
    names = list(table["inference"].unique())
    families = list(dict.fromkeys(name.split(", ")[0] for name in names))
    styles = {}
    for family, color in zip(families, PALETTE, strict=False):
        members = [name for name in names if name.split(", ")[0] == family]
        for place, name in enumerate(members):
            index = place % len(DASHES)
            styles[name] = (color, DASHES[index], SHAPES[index])
    return styles
