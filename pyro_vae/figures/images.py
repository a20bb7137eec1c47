"""Sheets of images, and the decoder's images over latent space."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.latents import latent_plane
from pyro_vae.figures.style import DPI, Array, write_plainly

GAP = 0.1  # around each image, as a part of its shorter side
HIDDEN = (0.55, 0.68, 0.85)  # a pale blue, for NaN
TICKS = 5


def image_grid(
    images: Array, image_shape: Sequence[int], columns: int, title: str
) -> Figure:
    """Draws images in rows.

    Args:
        images: The images, `(N, D)`; values are clipped to [0, 1], and NaN is
            drawn in pale blue.
        image_shape: `(height, width)` or `(3, height, width)`.
        columns: The number of images in a row.
        title: The figure's title, drawn letter by letter.
    """
    figure, axes = _draw_sheet(_tile(images, image_shape, columns), title)
    axes.set_axis_off()
    return figure


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
    title = f"Mean images over the test set's range{plane.note}"
    figure, axes = _draw_sheet(sheet, title)
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


def _draw_sheet(sheet: Array, title: str) -> tuple[Figure, Axes]:
    height, width = sheet.shape[:2]
    figure = Figure(
        figsize=(7, max(1.5, 7 * height / width + 0.6)),
        dpi=DPI,
        layout="constrained",
    )
    axes = figure.subplots()
    write_plainly(axes.set_title(title))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    return figure, axes


def _format(values: Array) -> list[str]:
    return [f"{value:.1f}" for value in values]
