"""Hooks on gradients, and gradients of the user's own, around a step."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from pyro_vae.svi.compat import get_hooks


@contextmanager
def set_aside(params: Sequence[Tensor]) -> Iterator[Counter[int]]:
    """Keeps gradients that parameters have, and hooks, out of a block's way.

    Yields:
        How often hooks would have been called, by the ids of their tables.
    """
    calls: Counter[int] = Counter()
    params = [p for p in params if p.is_leaf and p.requires_grad]
    given = {p: p.grad for p in params}
    hooked = {id(p): get_hooks(p) for p in params if get_hooks(p)}
    hooks = [(live, dict(live)) for live in hooked.values()]
    for param in given:
        param.grad = None
    for live, _ in hooks:
        live.clear()
        live["count"] = partial(_count, calls, id(live))
    try:
        yield calls
    finally:
        for param, grad in given.items():
            param.grad = grad
        for live, own in hooks:
            live.clear()
            live.update(own)


def _count(calls: Counter[int], key: int, grad: Tensor) -> None:
    """Stands in for hooks, and leaves a gradient as it is."""
    calls[key] += 1


def call_hooks(param: Tensor, grad: Tensor) -> Tensor:
    """Returns a gradient as the parameter's hooks leave it."""
    for hook in list(get_hooks(param).values()):
        changed = hook(grad)
        grad = grad if changed is None else changed
    return grad
