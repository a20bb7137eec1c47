"""Whether tensors are equal, where a NaN is equal to itself."""

import torch
from torch import Tensor


def are_equal(left: Tensor, right: Tensor) -> bool:
    """Returns whether two tensors are equal, and a NaN is to itself."""
    if torch.equal(left, right):
        return True
    if left.shape != right.shape:
        return False
    are_nan = (left != left) & (right != right)
    return bool(((left == right) | are_nan).all())
