"""Whether lists hold the same objects; whether tensors are equal."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def are_same(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Returns whether two lists hold the same objects, in the same order."""
    return len(values) == len(others) and all(map(operator.is_, values, others))


def are_equal(left: Tensor, right: Tensor) -> bool:
    """Returns whether two tensors are equal, and a NaN is to itself."""
    if torch.equal(left, right):
        return True
    if left.shape != right.shape:
        return False
    are_nan = (left != left) & (right != right)
    return bool(((left == right) | are_nan).all())
