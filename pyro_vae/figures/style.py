"""The resolution and the colors that all figures share."""

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

Array = NDArray[np.floating]

DPI = 150


def colors_of(count: int) -> Array:
    """Returns distinct colors as RGBA values in [0, 1], `(count, 4)`.

    Args:
        count: The number of colors; beyond 20 the last one repeats.
    """
    return colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))
