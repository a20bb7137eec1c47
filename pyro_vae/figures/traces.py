"""The ELBO of runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pyro_vae.figures.style import DPI, Array


def elbo_curves(records: Sequence[Mapping[str, float]]) -> Figure:
    """Draws the training and test ELBO of a run against its epochs.

    Args:
        records: What `fit` yielded, with or without a `validation_elbo`. The
            first one, before training, is far below the others and is written
            instead of drawn.
    """
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    drawn = records[1:] or records
    epochs = [record["epoch"] for record in drawn]
    for key, label in [
        ("train_elbo", "training, mean over the epoch"),
        ("validation_elbo", "validation, after the epoch"),
        ("test_elbo", "test, after the epoch"),
    ]:
        if key not in records[0]:
            continue
        values = [record[key] for record in drawn]
        axes.plot(epochs, values, marker=".", label=label)
    axes.set_title(
        f"ELBO; {records[0]['test_elbo']:.1f} before training, "
        f"{records[-1]['test_elbo']:.1f} at the end (test)"
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per image")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def compare_traces(
    groups: Mapping[str, Sequence[Mapping[str, Array]]],
) -> Figure:
    """Draws the test ELBO of groups of runs, against epochs and seconds.

    Args:
        groups: For each label, the traces of runs that differ by seed alone:
            arrays `epoch`, `seconds` and `test_elbo`. A group of several runs
            is drawn as its mean, with a band of one standard deviation.
    """
    figure = Figure(figsize=(11, 4.5), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for index, (label, traces) in enumerate(groups.items()):
        # A killed or longer run must not bend the mean: the common epochs.
        length = min(len(trace["epoch"]) for trace in traces)
        elbo = np.array([trace["test_elbo"][:length] for trace in traces])
        mean, spread = elbo.mean(0), elbo.std(0)
        first = 1 if length > 1 else 0  # epoch 0 would dwarf the rest
        for axes, key in zip(panels, ("epoch", "seconds"), strict=True):
            along = np.mean([trace[key][:length] for trace in traces], axis=0)
            style = {"color": f"C{index}"}
            name = label if len(traces) == 1 else f"{label} ({len(traces)})"
            axes.plot(
                along[first:], mean[first:], marker=".", label=name, **style
            )
            if len(traces) > 1:
                axes.fill_between(
                    along[first:],
                    (mean - spread)[first:],
                    (mean + spread)[first:],
                    alpha=0.25,
                    linewidth=0,
                    **style,
                )
    for axes, name in zip(panels, ("epoch", "seconds"), strict=True):
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("test ELBO, nats per image")
    panels[0].legend()
    return figure
