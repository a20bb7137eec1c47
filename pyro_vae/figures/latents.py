"""Pictures of latent space: points, and mixture components."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from pyro_vae.figures.style import (
    MAX_KINDS,
    TICK_SIZE,
    Array,
    colors_of,
    make_figure,
    on_slides,
    outline,
    shapes_of,
)

Labels = NDArray[Any]

CELLS = 40  # along each axis, to find where a label's own points are densest
JITTER = 0.35  # of a label's points along its line, in one dimension


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


@on_slides
def latent_scatter(
    z: Array,
    labels: Labels | None,
    components: tuple[Array, Array] | None = None,
) -> Figure:
    """Draws latents as points, colored by label.

    Each label is written where its own points are densest. Up to 30 labels are
    told apart by color and shape; more of them get a color bar.

    Args:
        z: Latents, `(N, P)`. Beyond two dimensions their first two principal
            components are drawn; a single one is drawn against the label.
        labels: `(N,)` integers, or None.
        components: The locs and scales of normals, `(K, P)` each, to be drawn
            as ellipses of two standard deviations, named c0, c1, ...; in one
            dimension none is.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import latent_scatter
        >>> z = np.random.default_rng(0).normal(size=(100, 2))
        >>> figure = latent_scatter(z, labels=np.arange(100) % 10)
        >>> figure.savefig("latent.png")
    """
    plane = latent_plane(z)
    points = plane.project(z)
    figure = make_figure(8.5, 7)
    axes = figure.subplots()
    axes.set_title(f"The test set in latent space{plane.note}")
    axes.set_xlabel(plane.labels[0])
    axes.tick_params(labelsize=TICK_SIZE)
    if len(plane.labels) == 1:
        _draw_strips(axes, points[:, 0], labels)
        return figure
    axes.set_ylabel(plane.labels[1])
    axes.set_aspect("equal", adjustable="datalim")
    handles = _draw_points(axes, points, labels)
    if components is not None:
        handles.append(_draw_components(axes, plane, *components))
    draw_legend(axes, handles, None if labels is None else "label")
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


def _draw_points(axes: Axes, points: Array, labels: Labels | None) -> list[Any]:
    """Draws points, and returns the entries of the legend."""
    size = float(np.clip(90_000 / len(points), 9, 40))  # square points
    x, y = points.T
    if labels is None:
        axes.scatter(x, y, s=size, linewidths=0, alpha=0.7)
        return []
    kinds = np.unique(labels)
    if len(kinds) > MAX_KINDS:
        drawn = axes.scatter(x, y, c=labels, s=size, linewidths=0)
        bar = axes.figure.colorbar(drawn, ax=axes, label="label")
        bar.ax.tick_params(labelsize=TICK_SIZE)
        return []
    colors, shapes = colors_of(len(kinds)), np.array(shapes_of(len(kinds)))
    index = np.searchsorted(kinds, labels)
    order = np.random.default_rng(0).permutation(len(points))
    for shape in np.unique(shapes):  # no label lies on top of the others
        chosen = order[shapes[index[order]] == shape]
        axes.scatter(
            x[chosen],
            y[chosen],
            c=colors[index[chosen]],
            s=size,
            marker=shape,
            linewidths=0,
            alpha=0.7,
        )
    for kind, place in zip(kinds, _find_places(points, index), strict=True):
        text = axes.text(place[0], place[1], str(kind), fontsize=17)
        text.set(weight="bold", ha="center", va="center", zorder=7)
        outline(text, 3.5)
    looks = zip(kinds, colors, shapes, strict=True)
    return [make_handle(*look) for look in looks]


def _find_places(points: Array, index: NDArray[np.integer]) -> list[Array]:
    """Returns where each label's own points are densest, beyond the others'.

    Args:
        points: `(N, 2)`.
        index: The number of each point's label, `(N,)`.
    """
    low, high = points.min(0), points.max(0)
    side = np.where(high > low, (high - low) / CELLS, 1)
    cells = np.minimum((points - low) // side, CELLS - 1).astype(int)

    def count(chosen: Array) -> Array:
        counts = np.zeros((CELLS + 2, CELLS + 2))
        np.add.at(counts, tuple(chosen.T + 1), 1)
        blocks = np.lib.stride_tricks.sliding_window_view(counts, (3, 3))
        return blocks.sum((2, 3))

    everything = count(cells)
    places = []
    for kind in range(index.max() + 1):
        own = cells[index == kind]
        score = 2 * count(own) - everything
        score[count(own) == 0] = -np.inf
        best = np.array(np.unravel_index(score.argmax(), score.shape))
        places.append(low + (best + 0.5) * side)
    return places


def _draw_strips(axes: Axes, x: Array, labels: Labels | None) -> None:
    """Draws latents of one dimension, a line for each label."""
    heights = np.random.default_rng(0).uniform(-JITTER, JITTER, len(x))
    size = float(np.clip(90_000 / len(x), 9, 40))
    if labels is None:
        axes.scatter(x, heights, s=size, linewidths=0, alpha=0.7)
        axes.set_yticks([])
        return
    kinds, index = np.unique(labels, return_inverse=True)
    colors = colors_of(len(kinds))[index]
    axes.scatter(x, index + heights, c=colors, s=size, linewidths=0, alpha=0.7)
    if len(kinds) <= MAX_KINDS:
        axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylabel("label")


def _draw_components(
    axes: Axes, plane: Plane, locs: Array, scales: Array
) -> Line2D:
    """Draws components, and returns the entry of the legend.

    Each is named at its ellipse, as far as possible from the other texts.
    """
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    around = np.column_stack([np.cos(angles), np.sin(angles)])
    taken = [text.get_position() for text in axes.texts]
    for k, (loc, scale) in enumerate(zip(locs, scales, strict=True)):
        center = plane.project(loc)
        covariance = (plane.directions * scale**2) @ plane.directions.T
        drawn = axes.add_patch(ellipse(center, covariance))
        drawn.set(linewidth=1.6, zorder=4)
        edge = center + 2 * around @ np.linalg.cholesky(covariance).T
        apart = edge[:, None] - np.array([*taken, *plane.project(locs)])
        best = edge[np.hypot(*np.moveaxis(apart, -1, 0)).min(1).argmax()]
        text = axes.annotate(f"c{k}", (best[0], best[1]), fontsize=10)
        text.set(ha="center", va="center", zorder=8)
        text.set_bbox({"boxstyle": "round,pad=0.15", "fc": "white", "lw": 0.8})
        taken.append((best[0], best[1]))
    name = "component c0, c1, ...:\ntwo standard\ndeviations"
    return Line2D([], [], color="black", linewidth=1.6, label=name)


def draw_legend(
    axes: Axes, handles: Sequence[Line2D], title: str | None
) -> None:
    """Draws a legend at the right of the axes, if there is anything in it."""
    if handles:
        axes.legend(
            handles=handles,
            title=title,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            alignment="left",
            ncols=1 + (len(handles) - 1) // 16,
        )


def make_handle(name: Any, color: Any, shape: str) -> Line2D:
    """Returns a legend's entry for points, or areas, of one color."""
    return Line2D(
        [],
        [],
        linestyle="",
        marker=shape,
        markersize=9,
        color=color,
        label=str(name),
    )
