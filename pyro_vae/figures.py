"""Figures: arrays in, a matplotlib Figure out. Nothing is shown or saved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

Array = NDArray[np.floating]

DPI = 150
GAP = 0.1  # between images, in units of an image's side


@dataclass(frozen=True)
class Plane:
    """The plane through latent space that a picture shows.

    Attributes:
        origin: `(P,)`.
        axes: `(2, P)`, orthonormal rows; `(1, P)` where P is 1.
        labels: The name of each axis.
    """

    origin: Array
    axes: Array
    labels: Sequence[str]

    def project(self, z: Array) -> Array:
        """Maps latents `(N, P)` to coordinates `(N, 2)`."""
        return (z - self.origin) @ self.axes.T

    def lift(self, coordinates: Array) -> Array:
        """Maps coordinates `(N, 2)` to latents `(N, P)` in the plane."""
        return self.origin + coordinates @ self.axes


def latent_plane(z: Array) -> Plane:
    """The latent space itself up to P = 2, else the first two components.

    Args:
        z: Latents, `(N, P)`.
    """
    dim = z.shape[1]
    if dim <= 2:
        labels = [f"$z_{i + 1}$" for i in range(dim)]
        return Plane(np.zeros(dim), np.eye(dim), labels)
    origin = z.mean(0)
    _, _, components = np.linalg.svd(z - origin, full_matrices=False)
    labels = ["first principal component", "second principal component"]
    return Plane(origin, components[:2], labels)


def image_grid(
    images: Array, image_shape: Sequence[int], columns: int, title: str
) -> Figure:
    """Draws images in rows.

    Args:
        images: `(N, D)` in [0, 1].
        image_shape: `(height, width)` or `(height, width, 3)`.
        columns: Images in a row.
        title: Above them.
    """
    sheet = _tile(images, image_shape, columns)
    figure, axes = _sheet_figure(sheet, title)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    return figure


def manifold(
    generate: Callable[[Array], Array],
    z: Array,
    image_shape: Sequence[int],
    size: int = 20,
) -> Figure:
    """Draws the mean images on a grid over the range of some latents.

    The first latent grows to the right, the second upwards. Beyond two
    dimensions the grid lies in the plane of the latents' first two principal
    components; for one, it is a row.

    Args:
        generate: Maps latents `(N, P)` to mean images `(N, D)`.
        z: The latents whose smallest and largest values bound the grid,
            `(M, P)`.
        image_shape: `(height, width)` or `(height, width, 3)`.
        size: Images along each axis.
    """
    plane = latent_plane(z)
    coordinates = plane.project(z)
    low, high = coordinates.min(0), coordinates.max(0)
    steps = np.linspace(low, high, size)
    if len(plane.labels) == 1:
        grid = steps
    else:  # rows from the top: the second coordinate falls, the first grows
        second, first = np.meshgrid(steps[::-1, 1], steps[:, 0], indexing="ij")
        grid = np.stack([first.ravel(), second.ravel()], axis=1)
    sheet = _tile(generate(plane.lift(grid)), image_shape, size)
    title = f"Mean images over the range of the test set's latents{_in(plane)}"
    figure, axes = _sheet_figure(sheet, title)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    ticks = np.linspace(0, size - 1, 5)
    pitch = sheet.shape[1] / size
    axes.set_xticks((ticks + 0.5) * pitch - 0.5, _values(low, high, 0))
    axes.set_xlabel(plane.labels[0])
    axes.set_yticks([])
    if len(plane.labels) == 2:
        pitch = sheet.shape[0] / size
        axes.set_yticks(
            (ticks + 0.5) * pitch - 0.5, _values(low, high, 1)[::-1]
        )
        axes.set_ylabel(plane.labels[1])
    return figure


def latent_scatter(z: Array, labels: NDArray | None) -> Figure:
    """Draws latents as points, coloured by label.

    Args:
        z: `(N, P)`; beyond two dimensions their first two principal
            components are drawn, for one their label on the second axis.
        labels: `(N,)` integers, or None.
    """
    plane = latent_plane(z)
    points = plane.project(z)
    axis_labels = list(plane.labels)
    if len(axis_labels) == 1:
        heights = np.zeros(len(z)) if labels is None else labels
        points = np.column_stack([points, heights])
        axis_labels.append("label" if labels is not None else "")
    figure = Figure(figsize=(7, 6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    if labels is None:
        axes.scatter(*points.T, s=4, linewidths=0)
    else:
        _scatter_by_label(axes, points, labels)
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    axes.set_title(f"Latent means of the test set{_in(plane)}")
    return figure


def elbo_curves(records: Sequence[Mapping[str, float]]) -> Figure:
    """Draws the training and test ELBO of a run against its epochs.

    Args:
        records: What `fit` yielded. The first one, before training, is far
            below the others and is written instead of drawn.
    """
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    drawn = records[1:] or records
    epochs = [record["epoch"] for record in drawn]
    for key, label in [
        ("train_elbo", "training, mean over the epoch"),
        ("test_elbo", "test, after the epoch"),
    ]:
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
            color=_colors(20)[index % 20],
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


def _scatter_by_label(axes: Axes, points: Array, labels: NDArray) -> None:
    kinds = np.unique(labels)
    if len(kinds) > 20:
        drawn = axes.scatter(*points.T, c=labels, s=4, linewidths=0)
        axes.figure.colorbar(drawn, ax=axes, label="label")
        return
    colors = _colors(len(kinds))
    index = np.searchsorted(kinds, labels)
    axes.scatter(*points.T, c=colors[index], s=4, linewidths=0, alpha=0.8)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=color, label=str(kind))
        for kind, color in zip(kinds, colors, strict=True)
    ]
    axes.legend(
        handles=handles,
        title="label",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )


def _colors(count: int) -> Array:
    from matplotlib import colormaps

    return colormaps["tab10" if count <= 10 else "tab20"](range(count))


def _tile(images: Array, image_shape: Sequence[int], columns: int) -> Array:
    """Puts images on one white sheet, with a gap around each."""
    height, width, *channels = image_shape
    gap = max(1, round(GAP * min(height, width)))
    images = np.clip(images, 0, 1).reshape(-1, *image_shape)
    rows = -(-len(images) // columns)
    sheet = np.ones((rows * (height + gap), columns * (width + gap), *channels))
    for index, image in enumerate(images):
        top = index // columns * (height + gap) + gap // 2
        left = index % columns * (width + gap) + gap // 2
        sheet[top : top + height, left : left + width] = image
    return sheet


def _sheet_figure(sheet: Array, title: str) -> tuple[Figure, Axes]:
    height, width = sheet.shape[:2]
    figure = Figure(
        figsize=(7, max(1.5, 7 * height / width + 0.6)),
        dpi=DPI,
        layout="constrained",
    )
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _values(low: Array, high: Array, axis: int) -> list[str]:
    return [f"{value:.1f}" for value in np.linspace(low[axis], high[axis], 5)]


def _in(plane: Plane) -> str:
    return " (principal components)" if len(plane.origin) > 2 else ""
