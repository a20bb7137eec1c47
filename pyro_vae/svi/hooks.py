"""Hooks on gradients, and gradients of the user's own, around a step."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from pyro_vae.svi.compat import get_hooks, get_late_hooks


@contextmanager
def set_aside(params: Sequence[Tensor]) -> Iterator[Counter[int]]:
    """Keeps gradients that parameters have, and hooks, out of a block's way.

    Yields:
        How often hooks would have been called, by the ids of their tables.
    """
    calls: Counter[int] = Counter()
    params = [p for p in params if p.is_leaf and p.requires_grad]
    given = {p: p.grad for p in params}
    tables = [find(p) for p in params for find in (get_hooks, get_late_hooks)]
    found = {id(table): table for table in tables if table}
    hooks = [(live, dict(live)) for live in found.values()]
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


def _count(calls: Counter[int], key: int, given: Tensor) -> None:
    """Stands in for hooks, and leaves a gradient as it is."""
    calls[key] += 1


def has_hooks(param: Tensor) -> bool:
    """Returns whether there are hooks on a parameter's gradient."""
    return bool(get_hooks(param) or get_late_hooks(param))


def call_hooks(param: Tensor, grad: Tensor) -> Tensor | None:
    """Returns a gradient as the parameter's hooks leave it.

    None, if one has taken it: it may step by itself.
    """
    grad = grad.clone()  # which they may keep
    for hook in list(get_hooks(param).values()):
        changed = hook(grad)
        grad = grad if changed is None else changed
    own, param.grad = param.grad, grad
    try:
        for late in list(get_late_hooks(param).values()):
            late(param)
        return param.grad
    finally:
        param.grad = own
