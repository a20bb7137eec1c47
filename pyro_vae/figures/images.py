"""Sheets of images, and the decoder's images over latent space."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.latents import latent_plane
from pyro_vae.figures.style import (
    DPI,
    TICK_SIZE,
    Array,
    make_figure,
    on_slides,
    write_plainly,
)

GAP = 0.1  # around each image, as a part of its shorter side
HIDDEN = (0.55, 0.68, 0.85)  # a pale blue, for NaN
TICKS = 5
WIDTH = 1000  # pixels of a sheet, about
MARGIN = 0.15  # inches around a sheet
ROOM = 0.75  # inches for an axis with a name
TOP = 0.5  # inches for the title


@on_slides
def image_grid(
    images: Array,
    image_shape: Sequence[int],
    columns: int,
    title: str,
    names: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Figure:
    """Draws images in rows.

    Args:
        images: The images, `(N, D)`; values are clipped to [0, 1], and NaN is
            drawn in pale blue.
        image_shape: `(height, width)` or `(3, height, width)`.
        columns: The number of images in a row.
        title: The figure's title, drawn letter by letter.
        names: A name for each image, for its upper left corner, or none.
        rows: A name for each row, or none.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import image_grid
        >>> images = np.random.default_rng(0).random((20, 64))
        >>> figure = image_grid(images, (8, 8), columns=10, title="Noise")
        >>> figure.savefig("noise.png")
    """
    sheet = _tile(images, image_shape, columns)
    left = ROOM if rows else MARGIN
    figure, axes = _draw_sheet(sheet, title, left, MARGIN)
    axes.set_xticks([])
    axes.set_yticks([])
    _write_names(axes, image_shape, columns, names, rows)
    return figure


@on_slides
def manifold(
    generate: Callable[[Array], Array],
    z: Array,
    image_shape: Sequence[int],
    size: int = 20,
) -> Figure:
    """Draws the mean images on a grid over the range of some latents.

    The first latent grows to the right, the second upward. Beyond two
    dimensions the grid lies in the plane of the latents' first two principal
    components; for one dimension it is a row.

    Args:
        generate: A function from latents `(N, P)` to mean images `(N, D)`.
        z: The latents whose smallest and largest values bound the grid,
            `(M, P)`.
        image_shape: `(height, width)` or `(3, height, width)`.
        size: The number of images along each axis.

    Examples:
        >>> import numpy as np
        >>> from pyro_vae.figures import manifold
        >>> z = np.random.default_rng(0).normal(size=(100, 2))
        >>> decode = lambda z: np.abs(np.sin(z @ np.ones((2, 64))))
        >>> figure = manifold(decode, z, (8, 8), size=10)
    """
    plane = latent_plane(z)
    coordinates = plane.project(z)
    low, high = coordinates.min(0), coordinates.max(0)
    grid = _make_grid(low, high, size)
    sheet = _tile(generate(plane.lift(grid)), image_shape, size)
    title = f"Mean images over the test set's range{plane.note}"
    left = ROOM if len(plane.labels) == 2 else MARGIN
    figure, axes = _draw_sheet(sheet, title, left, ROOM)
    values = np.linspace(low, high, TICKS)
    places = _tick_places(sheet.shape[1], image_shape[-1], image_shape)
    axes.set_xticks(places, _format(values[:, 0]))
    axes.set_xlabel(plane.labels[0])
    axes.set_yticks([])
    if len(plane.labels) == 2:
        places = _tick_places(sheet.shape[0], image_shape[-2], image_shape)
        axes.set_yticks(places, _format(values[::-1, 1]))
        axes.set_ylabel(plane.labels[1])
    return figure


def _make_grid(low: Array, high: Array, size: int) -> Array:
    """Returns the points of a grid from the top left, row by row."""
    steps = np.linspace(low, high, size)
    if len(low) == 1:
        return steps
    # From the top the second coordinate falls, while the first grows.
    second, first = np.meshgrid(steps[::-1, 1], steps[:, 0], indexing="ij")
    return np.stack([first.ravel(), second.ravel()], axis=1)


def _write_names(
    axes: Axes,
    image_shape: Sequence[int],
    columns: int,
    names: Sequence[str],
    rows: Sequence[str],
) -> None:
    """Names the images of a sheet, and its rows."""
    height, width = image_shape[-2:]
    gap = _gap(image_shape)
    if rows:
        places = gap + (height + gap) * np.arange(len(rows)) + (height - 1) / 2
        axes.set_yticks(places, rows)
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        corner = (gap + column * (width + gap), gap + row * (height + gap))
        text = axes.annotate(name, corner, (2, -2), textcoords="offset points")
        text.set(va="top", color="white", fontsize=9)


def _tile(images: Array, image_shape: Sequence[int], columns: int) -> Array:
    """Returns one white sheet with the images on it, a gap around each.

    The sheet is `(rows, columns)` of pixels, or `(rows, columns, 3)`.
    """
    # Loading torchvision takes as long as loading torch; a command that draws
    # nothing need not wait for it.
    from torchvision.utils import make_grid

    *channels, height, width = image_shape
    x = torch.from_numpy(np.clip(images, 0, 1))
    x = x.reshape(-1, *channels or (1,), height, width)
    hidden = x.isnan().any(1, keepdim=True)
    if hidden.any():
        channels = [3]
        blue = torch.tensor(HIDDEN).to(x).view(1, 3, 1, 1)
        x = torch.where(hidden, blue, x)
    # make_grid puts fewer images than a row on a narrower sheet, where they
    # would be drawn larger: white images fill the row.
    missing = max(0, columns - len(x))
    x = torch.cat([x, x.new_ones(missing, *x.shape[1:])])
    gap = _gap(image_shape)
    sheet = make_grid(x, nrow=columns, padding=gap, pad_value=1.0)
    # It repeats gray images in three channels.
    return (sheet.permute(1, 2, 0) if channels else sheet[0]).numpy()


def _gap(image_shape: Sequence[int]) -> int:
    """Returns the pixels between two images."""
    return max(1, round(GAP * min(image_shape[-2:])))


def _tick_places(
    length: int, side: int, image_shape: Sequence[int]
) -> list[float]:
    """Returns places from the first image's center to the last one's.

    Args:
        length: The pixels of the sheet along this axis.
        side: The pixels of an image along this axis.
        image_shape: The images' shape.
    """
    first = _gap(image_shape) + (side - 1) / 2
    return np.linspace(first, length - 1 - first, TICKS).tolist()


def _draw_sheet(
    sheet: Array, title: str, left: float, bottom: float
) -> tuple[Figure, Axes]:
    """Draws a sheet, each of whose pixels has a whole number of the figure's.

    So no gap is wider than another.

    Args:
        sheet: The sheet, `(height, width)` or `(height, width, 3)`.
        title: The title.
        left: The room at the left, in inches.
        bottom: The room below, in inches.
    """
    scale = max(1, round(WIDTH / sheet.shape[1]))
    height, width = (scale * side for side in sheet.shape[:2])
    left, bottom, right, top = (
        round(room * DPI) for room in (left, bottom, MARGIN, TOP)
    )
    total_width, total_height = left + width + right, bottom + height + top
    figure = make_figure(total_width / DPI, total_height / DPI, None)
    axes = figure.add_axes(
        (
            left / total_width,
            bottom / total_height,
            width / total_width,
            height / total_height,
        )
    )
    write_plainly(axes.set_title(title, pad=10))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=TICK_SIZE, length=3)
    return figure, axes


def _format(values: Array) -> list[str]:
    return [f"{value:.1f}" for value in values]
