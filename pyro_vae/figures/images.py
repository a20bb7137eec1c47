"""Sheets of images."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.figures.latents import latent_plane, where
from pyro_vae.figures.style import DPI, Array

GAP = 0.1  # between images, in units of an image's side


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
    title = f"Mean images over the test set's range{where(plane)}"
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
