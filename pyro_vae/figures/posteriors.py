"""Pictures of how good the bound and the approximate posterior are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyro_vae.figures.latents import ellipse
from pyro_vae.figures.style import DPI, Array, write_plainly

COLUMNS = 4
COLORS = ("C1", "C0", "C2")


@dataclass(frozen=True)
class Panel:
    """One image's exact posterior in two dimensions, and approximations of it.

    Attributes:
        title: The panel's title, drawn letter by letter.
        image: The image in the panel's corner, `(height, width)` or
            `(height, width, 3)`.
        z: Grid points, `(size, size, 2)`.
        density: The posterior p(z given x) at the grid points, `(size, size)`.
        normals: The mean `(2,)` and covariance `(2, 2)` of each
            approximation, by name; at most three.
    """

    title: str
    image: Array
    z: Array
    density: Array
    normals: Mapping[str, tuple[Array, Array]]


def posterior_panels(panels: Sequence[Panel]) -> Figure:
    """Draws contours of exact posteriors with their approximations.

    The contours hold 50, 90 and 99 percent of the posterior's mass; the
    ellipses are two standard deviations of the approximations.

    Args:
        panels: The panels, at least one, drawn four to a row. The names of the
            first one's approximations are the legend.
    """
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(
        figsize=(3 * COLUMNS, 3 * rows + 0.4), dpi=DPI, layout="constrained"
    )
    grid = np.atleast_1d(figure.subplots(rows, COLUMNS)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    handles = [
        Line2D([], [], color=color, label=name)
        for color, name in zip(COLORS, panels[0].normals, strict=False)
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=3)
    write_plainly(*legend.get_texts())
    return figure


def gap_histogram(approximation: Array, amortization: Array) -> Figure:
    """Draws how the approximation gap and the amortization gap are distributed.

    Args:
        approximation: The approximation gap of each image, `(B,)`, in nats.
        amortization: The amortization gap of each image, `(B,)`, in nats.
    """
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    both = {"approximation": approximation, "amortization": amortization}
    # A few hard images must not squeeze the others into one bar.
    top = max(float(np.quantile(values, 0.98)) for values in both.values())
    low = min(0.0, *(float(values.min()) for values in both.values()))
    bins = np.linspace(low, top, 50).tolist()
    for name, values in both.items():
        axes.hist(
            np.clip(values, None, top),
            bins,
            alpha=0.6,
            label=f"{name}, mean {values.mean():.2f}",
        )
    axes.set_xlabel("gap, nats (the last bar holds all beyond)")
    axes.set_ylabel("images")
    axes.legend()
    return figure


def bound_curve(
    num_samples: Sequence[int],
    bounds: Array,
    errors: Array,
    exact: float | None,
) -> Figure:
    """Draws the importance-weighted bound against its number of samples.

    Args:
        num_samples: The samples of z for each image that each of C bounds
            takes.
        bounds: The bounds' means over images, `(C,)`, in nats.
        errors: The bounds' standard errors by sampling, `(C,)`, in nats.
        exact: The mean of log p(x) over the same images, in nats; None if it
            is not known.
    """
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.errorbar(
        num_samples, bounds, yerr=errors, marker="o", label="importance bound"
    )
    if exact is not None:
        axes.axhline(exact, color="black", linestyle="--", label="exact")
    axes.set_xscale("log")
    axes.set_xlabel("samples of z for each image")
    axes.set_ylabel("nats per image")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    z1, z2 = np.moveaxis(panel.z, -1, 0)
    axes.contourf(
        z1,
        z2,
        panel.density,
        levels=[*_mass_levels(panel.density), panel.density.max() * 1.01],
        colors=["0.85", "0.7", "0.5"],
    )
    for color, normal in zip(COLORS, panel.normals.values(), strict=False):
        axes.add_patch(ellipse(*normal, color=color))
    inset = axes.inset_axes((0.02, 0.72, 0.26, 0.26))
    inset.imshow(panel.image, cmap="gray", vmin=0, vmax=1)
    inset.set_axis_off()
    write_plainly(axes.set_title(panel.title, fontsize="small"))
    axes.tick_params(labelsize="x-small")


def _mass_levels(density: Array) -> list[float]:
    """Returns the densities whose contours hold 99, 90 and 50 % of the mass."""
    values = np.sort(density.ravel())[::-1]
    mass = values.cumsum() / values.sum()
    levels = [values[np.searchsorted(mass, part)] for part in (0.99, 0.9, 0.5)]
    # On a coarse grid levels may coincide, but matplotlib wants growing ones.
    rising = np.array([0, 1e-12, 2e-12])
    return list(np.maximum.accumulate(np.array(levels)) * (1 + rising))
