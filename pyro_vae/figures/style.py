"""The resolution, the colors and the texts that all figures share."""

import numpy as np
from matplotlib import colormaps
from matplotlib.text import Text
from numpy.typing import NDArray

Array = NDArray[np.floating]

DPI = 150


def colors_of(count: int) -> Array:
    """Returns distinct colors as RGBA values in [0, 1], `(count, 4)`.

    Args:
        count: The number of colors; beyond 20 the last one repeats.
    """
    return colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))


def write_plainly(*texts: Text) -> None:
    """Has texts drawn letter by letter, since they may be the names of files.

    A `$` starts no formula in them, and bytes that are no UTF-8 are drawn as
    escapes.
    """
    for text in texts:
        written = text.get_text().encode("utf-8", "backslashreplace")
        text.set(text=written.decode(), parse_math=False, usetex=False)
