"""Arrays as text that a page's own code reads back."""

import base64
import gzip
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Reference = dict[str, Any]

SMALL = 8192  # values, up to which float32 costs little
LEVELS = 32_767  # of 16 bits, on either side of 0


@dataclass
class Blob:
    """Arrays laid end to end, compressed together, in base 64.

    A page reads it as a whole, so that what is needed at different times goes
    into different blobs.

    Attributes:
        number: The number of the blob in its page.
    """

    number: int
    _parts: list[bytes] = field(default_factory=list, repr=False)
    _size: int = field(default=0, repr=False)

    def add(self, array: Array | Tensor) -> Reference:
        """Adds an array of bytes, or of floats in single precision.

        Returns:
            What the page finds it by, JSON-able.
        """
        if isinstance(array, Tensor):
            array = array.detach().cpu().numpy()
        kind = "uint8" if array.dtype == np.uint8 else "float32"
        return self._append(kind, array.astype(kind), array.shape)

    def add_weight(self, weight: Tensor) -> Reference:
        """Adds a network's weight, rounded to 16 bits if it is large.

        Each row has a scale of its own, and 65,535 equal steps over its range.
        That is 5 times as exact as half precision, whose steps grow with the
        value, and with which a latent of MNIST's is off by up to 3e-3.
        """
        array = weight.detach().cpu().numpy().astype(np.float32)
        if array.size <= SMALL:
            return self.add(array)
        rows = array.reshape(len(array), -1)
        scales = np.abs(rows).max(1).clip(min=1e-30) / LEVELS
        steps = np.rint(rows / scales[:, None]).astype(np.int16)
        # Low bytes, then high ones: alike stands by alike, and packs better.
        planes = steps.view(np.uint8).reshape(-1, 2).T
        found = self._append("fixed16", planes, array.shape)
        return {**found, "scales": self.add(scales)}

    def encode(self) -> str:
        """Returns all arrays as text."""
        packed = gzip.compress(b"".join(self._parts), 9, mtime=0)
        return base64.b64encode(packed).decode()

    def _append(
        self, kind: str, array: Array, shape: tuple[int, ...]
    ) -> Reference:
        offset, content = self._size, array.tobytes()
        padding = -len(content) % 4  # floats stand at multiples of 4
        self._parts.append(content + bytes(padding))
        self._size += len(content) + padding
        return {
            "blob": self.number,
            "kind": kind,
            "offset": offset,
            "size": math.prod(shape),
            "shape": list(shape),
        }


def to_list(tensor: Tensor) -> Any:
    """Returns a small tensor as nested lists of numbers, JSON-able."""
    if tensor.dim():
        return [to_list(row) for row in tensor.detach()]
    return float(f"{tensor.item():.7g}")
