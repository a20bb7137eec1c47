"""Ways of inference against each other."""

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from pyro_vae.figures.style import DPI, colors_of


def amortization(table) -> Figure:
    """Draws bounds against time and passes over the data.

    Args:
        table: A data frame with the columns `inference`, `epoch`,
            `train_seconds`, `test_elbo` and `log_marginal_likelihood`, which
            may be NaN in some rows.
    """
    figure = Figure(figsize=(15, 4.8), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    names = list(table["inference"].unique())
    for name, color in zip(names, colors_of(len(names)), strict=True):
        of_one = table[table["inference"] == name]
        exact = of_one.dropna(subset="log_marginal_likelihood")
        style = {"color": color, "marker": ".", "label": name}
        panels[0].plot(of_one["train_seconds"], of_one["test_elbo"], **style)
        panels[1].plot(of_one["epoch"], of_one["test_elbo"], **style)
        panels[2].plot(
            exact["train_seconds"],
            exact["log_marginal_likelihood"],
            **{**style, "marker": "o"},
        )
    for axes, title, label in zip(
        panels,
        ("test ELBO", "test ELBO", "exact log p(x), at the end"),
        ("seconds of training", "passes over the data", "seconds of training"),
        strict=True,
    ):
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    for axes in (panels[0], panels[2]):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would overlap
    # The first epochs would dwarf the rest.
    values = table["test_elbo"].dropna()
    low = values.quantile(0.2)
    panels[0].set_ylim(bottom=low - 0.1 * (values.max() - low))
    panels[0].set_ylabel("nats per image")
    panels[1].legend(fontsize="small")
    return figure
