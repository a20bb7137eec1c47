"""Pictures of how good the bound and the approximate posterior are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pyro_vae.figures.latents import ellipse
from pyro_vae.figures.style import (
    DASHES,
    PALETTE,
    TICK_SIZE,
    Array,
    make_figure,
    on_slides,
    write_plainly,
)

COLUMNS = 4
COLORS = (PALETTE[2], PALETTE[0], PALETTE[4])
MASSES = {"99 %": "0.85", "90 %": "0.7", "50 %": "0.5"}  # as grey levels
LEAST_GAP = 0.01  # nats; what is less stands in the first bar
BARS = 40


@dataclass(frozen=True)
class Panel:
    """One image's exact posterior in two dimensions, and approximations of it.

    Attributes:
        title: The panel's title, drawn letter by letter.
        image: The image above the panel, `(height, width)` or
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


@on_slides
def posterior_panels(panels: Sequence[Panel]) -> Figure:
    """Draws contours of exact posteriors with their approximations.

    The contours hold 50, 90 and 99 percent of the posterior's mass; the
    ellipses are two standard deviations of the approximations.

    Args:
        panels: The panels, at least one, drawn four to a row. The names of the
            first one's approximations are the legend.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import Panel, posterior_panels
        >>> line = np.linspace(-3, 3, 60)
        >>> z = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)
        >>> density = np.exp(-(z**2).sum(-1) / 2)
        >>> normals = {"guide": (np.zeros(2), np.eye(2))}
        >>> panel = Panel("gap 0.1", np.zeros((8, 8)), z, density, normals)
        >>> figure = posterior_panels([panel])
    """
    rows = -(-len(panels) // COLUMNS)
    figure = make_figure(3.2 * COLUMNS, 3.7 * rows + 1.2)
    grid = np.atleast_1d(figure.subplots(rows, COLUMNS)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        _draw_panel(axes, panel)
        axes.set_xlabel("$z_1$")
        if number % COLUMNS == 0:
            axes.set_ylabel("$z_2$")
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=c, linestyle=d, label=f"{name}, two sd")
        for c, d, name in zip(COLORS, DASHES, panels[0].normals, strict=False)
    ]
    handles += [
        Patch(color=grey, label=f"{mass} of the exact posterior")
        for mass, grey in reversed(MASSES.items())
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=3)
    write_plainly(*legend.get_texts())
    return figure


@on_slides
def gap_histogram(
    approximation: Array, amortization: Array, of: str = ""
) -> Figure:
    """Draws how the approximation gap and the amortization gap are distributed.

    The bars are equally wide on a scale of logarithms. What is less than 0.01
    nats, or is negative by the noise of sampling, stands in the first one.

    Args:
        approximation: The approximation gap of each image, `(B,)`, in nats.
        amortization: The amortization gap of each image, `(B,)`, in nats.
        of: What the gaps are of, in words.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import gap_histogram
        >>> gaps = np.random.default_rng(0).exponential(size=(2, 500))
        >>> figure = gap_histogram(gaps[0], 20 * gaps[1])
    """
    figure = make_figure(8.5, 5)
    axes = figure.subplots()
    both = {"approximation": approximation, "amortization": amortization}
    top = max(2 * LEAST_GAP, *(float(v.max()) for v in both.values()))
    bins = np.geomspace(LEAST_GAP, 1.0001 * top, BARS).tolist()
    for (name, values), color, hatch in zip(
        both.items(), PALETTE, ("", "//"), strict=False
    ):
        axes.hist(
            np.clip(values, LEAST_GAP, None),
            bins,
            alpha=0.6,
            color=color,
            ec="black",
            hatch=hatch,
            label=f"{name}, mean {values.mean():.2f} nats",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    of = of or f"{len(approximation):,} images"
    axes.set_title(f"Where the ELBO of {of} loses")
    axes.set_xlabel(f"gap, nats (the first bar: up to {LEAST_GAP})")
    axes.set_ylabel("images")
    axes.tick_params(labelsize=TICK_SIZE)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@on_slides
def bound_curve(
    num_samples: Sequence[int],
    bounds: Array,
    errors: Array,
    exact: float | None,
    of: str = "",
) -> Figure:
    """Draws the importance-weighted bound against its number of samples.

    Args:
        num_samples: The samples of z for each image that each of C bounds
            takes.
        bounds: The bounds' means over images, `(C,)`, in nats.
        errors: The bounds' standard errors by sampling, `(C,)`, in nats.
        exact: The mean of log p(x) over the same images, in nats; None if it
            is not known.
        of: What images the means are over, in words.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import bound_curve
        >>> bounds = np.array([130.0, 138.0, 142.0])
        >>> figure = bound_curve((1, 10, 100), bounds, np.ones(3), exact=160.0)
    """
    figure = make_figure(8.5, 5)
    axes = figure.subplots()
    axes.errorbar(num_samples, bounds, yerr=errors, marker="o", capsize=3)
    _write_at_end(axes, f"importance bound, {bounds[-1]:.1f}", bounds[-1], -36)
    if exact is not None:
        axes.axhline(exact, color="black", linestyle="--", label="exact")
        _write_at_end(axes, f"exact log p(x), {exact:.1f}", exact, 5)
        axes.margins(y=0.12)
    axes.set_title("The importance bound" + (f" of {of}" if of else ""))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("samples of z for each image")
    axes.set_ylabel("nats per image, mean")
    axes.tick_params(labelsize=TICK_SIZE)
    axes.grid(alpha=0.3)
    return figure


def _write_at_end(axes: Axes, text: str, y: float, points: float) -> None:
    """Writes a text above or below a line, at its right end."""
    axes.annotate(
        text,
        (0.99, y),
        (0, points),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    z1, z2 = np.moveaxis(panel.z, -1, 0)
    axes.contourf(
        z1,
        z2,
        panel.density,
        levels=[*_mass_levels(panel.density), panel.density.max() * 1.01],
        colors=list(MASSES.values()),
    )
    for color, dash, normal in zip(
        COLORS, DASHES, panel.normals.values(), strict=False
    ):
        axes.add_patch(ellipse(*normal, color=color)).set(
            linestyle=dash, linewidth=2.2
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.locator_params(nbins=4)
    inset = axes.inset_axes((0.0, 1.03, 0.25, 0.25))
    inset.imshow(panel.image, cmap="gray", vmin=0, vmax=1)
    inset.set_axis_off()
    write_plainly(axes.set_title(panel.title, loc="right", fontsize=12, y=1.08))
    axes.tick_params(labelsize=TICK_SIZE)


def _mass_levels(density: Array) -> list[float]:
    """Returns the densities whose contours hold 99, 90 and 50 % of the mass."""
    values = np.sort(density.ravel())[::-1]
    mass = values.cumsum() / values.sum()
    levels = [values[np.searchsorted(mass, part)] for part in (0.99, 0.9, 0.5)]
    # On a coarse grid levels may coincide, but matplotlib wants growing ones.
    rising = np.array([0, 1e-12, 2e-12])
    return list(np.maximum.accumulate(np.array(levels)) * (1 + rising))
