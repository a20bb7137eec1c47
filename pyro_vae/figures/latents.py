"""Pictures of latent space: points, mixture components, discrete states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from pyro_vae.figures.style import DPI, Array, colors_of

Labels = NDArray[Any]

MAX_LEGEND = 20  # labels; more of them get a color bar
MAX_TICKS = 30  # states whose numbers fit below their bars


@dataclass(frozen=True)
class Plane:
    """The plane, or line, through latent space that a picture shows.

    Attributes:
        origin: The latent at the coordinates 0, `(P,)`.
        directions: Orthonormal rows, `(2, P)`; `(1, P)` where P is 1.
        labels: The name of each direction.
    """

    origin: Array
    directions: Array
    labels: Sequence[str]

    @property
    def note(self) -> str:
        """A title's words on principal components; empty up to P = 2."""
        return " (principal components)" if len(self.origin) > 2 else ""

    def project(self, z: Array) -> Array:
        """Returns the coordinates `(N, 2)` of latents `(N, P)`."""
        return (z - self.origin) @ self.directions.T

    def lift(self, coordinates: Array) -> Array:
        """Returns the latents `(N, P)` at coordinates `(N, 2)`."""
        return self.origin + coordinates @ self.directions


def latent_plane(z: Array) -> Plane:
    """Returns latent space itself up to P = 2, else its plane of most variance.

    Args:
        z: Latents, `(N, P)`. Beyond P = 2 their first two principal
            components span the plane.
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
    labels: Labels | None,
    components: tuple[Array, Array] | None = None,
) -> Figure:
    """Draws latents as points, colored by label.

    Args:
        z: Latents, `(N, P)`. Beyond two dimensions their first two principal
            components are drawn; a single one is drawn against the label.
        labels: `(N,)` integers, or None.
        components: The locs and scales of normals, `(K, P)` each, to be drawn
            as ellipses of two standard deviations; in one dimension none is.
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
    _draw_points(axes, points, labels)
    if components is not None and len(plane.labels) == 2:
        _draw_components(axes, plane, *components)
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    axes.set_title(f"The test set in latent space{plane.note}")
    return figure


def state_usage(
    states: NDArray[np.integer], labels: Labels | None, num_states: int
) -> Figure:
    """Draws how many images are in each discrete state, colored by label.

    The fullest states come first; those without an image are counted in the
    title alone.

    Args:
        states: The state of each image, `(N,)` integers.
        labels: `(N,)` integers, or None.
        num_states: The number of states that the prior has.
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
    if labels is not None and len(kinds) <= MAX_LEGEND:
        _draw_legend(axes, kinds, palette)
    if len(used) <= MAX_TICKS:
        axes.set_xticks(range(len(used)), used)
    axes.set_xlabel("state, by number of images")
    axes.set_ylabel("test images")
    axes.set_title(f"{len(used)} of {num_states} states have a test image")
    return figure


def ellipse(center: Array, covariance: Array, color: str = "black") -> Ellipse:
    """Returns the contour of a normal at two standard deviations.

    Args:
        center: The normal's mean, `(2,)`.
        covariance: The normal's covariance, `(2, 2)`.
        color: The color of the line.
    """
    variances, directions = np.linalg.eigh(covariance)
    height, width = 4 * np.sqrt(variances)  # in order of growing variance
    return Ellipse(
        (center[0], center[1]),
        width,
        height,
        angle=np.degrees(np.arctan2(directions[1, 1], directions[0, 1])),
        fill=False,
        color=color,
    )


def _draw_points(axes: Axes, points: Array, labels: Labels | None) -> None:
    x, y = points.T
    if labels is None:
        axes.scatter(x, y, s=4, linewidths=0)
        return
    kinds = np.unique(labels)
    if len(kinds) > MAX_LEGEND:
        drawn = axes.scatter(x, y, c=labels, s=4, linewidths=0)
        axes.figure.colorbar(drawn, ax=axes, label="label")
        return
    colors = colors_of(len(kinds))
    index = np.searchsorted(kinds, labels)
    axes.scatter(x, y, c=colors[index], s=4, linewidths=0, alpha=0.8)
    _draw_legend(axes, list(kinds), colors)


def _draw_components(
    axes: Axes, plane: Plane, locs: Array, scales: Array
) -> None:
    for k, (loc, scale) in enumerate(zip(locs, scales, strict=True)):
        center = plane.project(loc)
        covariance = (plane.directions * scale**2) @ plane.directions.T
        axes.add_patch(ellipse(center, covariance))
        place = (center[0], center[1])
        axes.annotate(str(k), place, ha="center", va="center")


def _draw_legend(axes: Axes, kinds: Sequence[Any], colors: Array) -> None:
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
