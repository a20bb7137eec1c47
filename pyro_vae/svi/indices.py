"""What the entries of an index, `x[index]`, stand for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def find_axis(tensor: Tensor, parts: Sequence[Any], place: int) -> int:
    """Returns the dimension that an entry of an index stands for."""
    before = parts[:place]
    if any(part is Ellipsis for part in before):
        return tensor.dim() - sum(map(_num_axes, parts[place:]))
    return sum(map(_num_axes, before))


def _num_axes(part: Any) -> int:
    """Returns how many dimensions an entry of an index stands for."""
    if part is None or isinstance(part, bool):
        return 0
    return part.dim() if is_mask(part) else 1


def is_mask(part: Any) -> bool:
    """Returns whether an entry of an index is a mask."""
    return isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)


def is_number(part: Any) -> bool:
    """Returns whether an entry of an index is a single integer."""
    if not isinstance(part, Tensor) or part.dim() or is_mask(part):
        return False
    return not (part.is_floating_point() or part.is_complex())


def is_tuple(index: Any) -> bool:
    """Returns whether an index has several entries."""
    return isinstance(index, tuple)
