"""Pictures of latent space."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from pyro_vae.figures.style import DPI, Array, colors_of


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


def latent_scatter(
    z: Array,
    labels: NDArray | None,
    components: tuple[Array, Array] | None = None,
) -> Figure:
    """Draws latents as points, coloured by label.

    Args:
        z: `(N, P)`; beyond two dimensions their first two principal
            components are drawn, for one their label on the second axis.
        labels: `(N,)` integers, or None.
        components: The locs and scales of normals, `(K, P)` each, to be drawn
            as ellipses of two standard deviations.
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
    if components is not None and len(plane.labels) == 2:
        for k, (loc, scale) in enumerate(zip(*components, strict=True)):
            center = plane.project(loc)
            covariance = (plane.axes * scale**2) @ plane.axes.T
            axes.add_patch(ellipse(center, covariance))
            axes.annotate(str(k), center, ha="center", va="center")
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    axes.set_title(f"The test set in latent space{where(plane)}")
    return figure


def ellipse(center: Array, covariance: Array, color: str = "black") -> Ellipse:
    """The contour of a normal at two standard deviations.

    Args:
        center: `(2,)`.
        covariance: `(2, 2)`.
        color: Of its line.
    """
    variances, directions = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    return Ellipse(
        center,
        *4 * np.sqrt(variances[::-1]),
        angle=angle,
        fill=False,
        color=color,
    )


def state_usage(
    states: NDArray, labels: NDArray | None, num_states: int
) -> Figure:
    """Draws how many images are in each discrete state, coloured by label.

    Args:
        states: `(N,)` integers; the fullest states come first.
        labels: `(N,)` integers, or None.
        num_states: Of which this many there are; those without an image count
            in the title alone.
    """
    used, counts = np.unique(states, return_counts=True)
    used = used[np.argsort(-counts, kind="stable")]
    kinds = [None] if labels is None else list(np.unique(labels))
    palette = colors_of(len(kinds))
    figure = Figure(figsize=(9, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    bottom = np.zeros(len(used))
    for kind, color in zip(kinds, palette, strict=True):
        of_kind = states if kind is None else states[labels == kind]
        heights = (of_kind[:, None] == used).sum(0)
        axes.bar(range(len(used)), heights, bottom=bottom, color=color)
        bottom += heights
    if labels is not None and len(kinds) <= 20:
        _legend_of_labels(axes, kinds, palette)
    if len(used) <= 30:
        axes.set_xticks(range(len(used)), used)
    axes.set_xlabel("state, by number of images")
    axes.set_ylabel("test images")
    axes.set_title(f"{len(used)} of {num_states} states have a test image")
    return figure


def _scatter_by_label(axes: Axes, points: Array, labels: NDArray) -> None:
    kinds = np.unique(labels)
    if len(kinds) > 20:
        drawn = axes.scatter(*points.T, c=labels, s=4, linewidths=0)
        axes.figure.colorbar(drawn, ax=axes, label="label")
        return
    colors = colors_of(len(kinds))
    index = np.searchsorted(kinds, labels)
    axes.scatter(*points.T, c=colors[index], s=4, linewidths=0, alpha=0.8)
    _legend_of_labels(axes, kinds, colors)


def _legend_of_labels(axes: Axes, kinds: Sequence, colors: Array) -> None:
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


def where(plane: Plane) -> str:
    """Words for a title, if the plane is not the latent space itself."""
    return " (principal components)" if len(plane.origin) > 2 else ""
