"""What all figures share."""

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

Array = NDArray[np.floating]

DPI = 150


def colors_of(count: int) -> Array:
    """As many colours that differ, `(count, 4)`."""
    return colormaps["tab10" if count <= 10 else "tab20"](range(count))
