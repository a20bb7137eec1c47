"""Clipping of the gradient as a whole."""

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(params: Iterable[Tensor], max_norm: float | None) -> None:
    r"""Shortens the gradient to a norm, keeping its direction, in place.

    .. math:: g \leftarrow g \min(1, c / \|g\|_2)

    The norm is that of all parameters together; Pyro's optimisers, one for
    each parameter, can only clip each by itself, which turns the direction.

    Args:
        params: Parameters; one may come twice, or have no gradient.
        max_norm: c; None leaves everything as it is.
    """
    if max_norm is None:
        return
    unique = {id(param): param for param in params}.values()
    grads = [param.grad for param in unique if param.grad is not None]
    if not grads:
        return
    norms = torch.stack([grad.norm() for grad in grads])
    factor = (max_norm / norms.norm()).clamp(max=1.0)
    with torch.no_grad():
        torch._foreach_mul_(grads, factor)
