"""The resolution, the colors and the texts that all figures share."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cycler import cycler
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray

Array = NDArray[np.floating]

DPI = 150
# Ten colors that color-blind people can tell apart, by M. A. Petroff
# ("Accessible color sequences for data visualization", 2021), as the explorer
# has them in page/colors.js.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#a39751",
    "#5c6570",
    "#4fbcc9",
)
# Beyond ten, shapes tell apart what has the same color.
SHAPES = ("o", "s", "^")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))
MAX_KINDS = len(PALETTE) * len(SHAPES)  # that can be told apart
TICK_SIZE = 11  # points

# Sizes to be read from the back of a room; a decorator of what draws.
on_slides = rc_context(
    {
        "font.size": 12,
        "axes.titlesize": 14,
        "axes.labelsize": 13,
        "legend.fontsize": 12,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=PALETTE),
        "lines.linewidth": 2,
        "hatch.linewidth": 0.8,
    }
)


class Picture(Figure):
    """A figure that a notebook shows where it is a cell's last line."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


@dataclass(frozen=True)
class Ending:
    """The last point of a line, and its name."""

    x: float
    y: float
    name: str
    color: Any


def make_figure(
    width: float, height: float, layout: Any = "constrained"
) -> Picture:
    """Returns an empty figure.

    Args:
        width: Its width, in inches.
        height: Its height, in inches.
        layout: Matplotlib's layout engine; None for none.
    """
    return Picture(figsize=(width, height), dpi=DPI, layout=layout)


def colors_of(count: int) -> Array:
    """Returns colors as RGBA values in [0, 1], `(count, 4)`.

    Args:
        count: The number of colors. The first ten are distinct, and come again
            up to 30, where `SHAPES` or `DASHES` tell them apart; more than that
            are a scale from dark to light.
    """
    if count > MAX_KINDS:
        return colormaps["viridis"](np.linspace(0, 1, count))
    return to_rgba_array([PALETTE[i % len(PALETTE)] for i in range(count)])


def shapes_of(count: int, shapes: Sequence[Any] = SHAPES) -> list[Any]:
    """Returns the shape, or the dash, that goes with each of `colors_of`."""
    if count > MAX_KINDS:
        return [shapes[0]] * count
    return [shapes[i // len(PALETTE)] for i in range(count)]


def name_lines(
    axes: Axes,
    endings: Sequence[Ending],
    lines: int = 1,
    side: Literal["left", "right"] = "right",
) -> None:
    """Writes the names of lines beside their ends, outside of the axes.

    Names that would overlap are moved apart, and each is led to its line.

    Args:
        axes: The axes, with their final limits in y, as they were laid out.
        endings: The lines' ends on that side.
        lines: The lines of text in each name.
        side: The side.
    """
    apart = 16 * lines / (axes.bbox.height / DPI * 72)
    limits = axes.transData.transform([(1, y) for y in axes.get_ylim()])
    ends = axes.transData.transform([(one.x, one.y) for one in endings])
    low, high = limits[:, 1]
    heights = np.clip((ends[:, 1] - low) / (high - low), 0, 1)
    order = np.argsort(heights, kind="stable")
    for index, place in zip(order, _spread(heights[order], apart), strict=True):
        one = endings[index]
        text = axes.annotate(
            one.name,
            xy=(one.x, float(np.clip(one.y, *axes.get_ylim()))),
            xytext=(1.04 if side == "right" else -0.04, place),
            textcoords="axes fraction",
            va="center",
            ha="left" if side == "right" else "right",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": one.color,
                "relpos": (0 if side == "right" else 1, 0.5),
                "shrinkB": 2,
                "linewidth": 1,
            },
        )
        write_plainly(text)


def _spread(heights: Array, apart: float) -> Array:
    """Returns rising heights from 0 to 1, moved until they are apart."""
    placed = heights.copy()
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + apart)
    placed[-1:] = np.minimum(placed[-1:], 1)
    for index in reversed(range(len(placed) - 1)):
        placed[index] = min(placed[index], placed[index + 1] - apart)
    return placed


def outline(text: Text, width: float = 3) -> None:
    """Draws a white line around the letters of a text, in points."""
    text.set_path_effects([withStroke(linewidth=width, foreground="white")])


def write_plainly(*texts: Text) -> None:
    """Has texts drawn letter by letter, since they may be the names of files.

    A `$` starts no formula in them, and bytes that are no UTF-8 are drawn as
    escapes.
    """
    for text in texts:
        written = text.get_text().encode("utf-8", "backslashreplace")
        text.set(text=written.decode(), parse_math=False, usetex=False)
