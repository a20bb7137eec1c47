"""Hooks on gradients, and gradients of the user's own, around a step."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

from torch import Tensor

from pyro_vae.svi.compat import get_hooks, get_late_hooks
from pyro_vae.svi.refusals import DynamicPairError


@contextmanager
def set_aside(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Keeps gradients that tensors have, and hooks, out of a block's way."""
    leaves = [t for t in tensors if t.is_leaf and t.requires_grad]
    given = {leaf: leaf.grad for leaf in leaves}
    tables = [
        find(leaf) for leaf in leaves for find in (get_hooks, get_late_hooks)
    ]
    found = {id(table): table for table in tables if table}
    hooks = [(live, dict(live)) for live in found.values()]
    for leaf in given:
        leaf.grad = None
    for live, _ in hooks:
        live.clear()
    try:
        yield
    finally:
        for leaf, grad in given.items():
            leaf.grad = grad
        for live, own in hooks:
            live.clear()
            live.update(own)


@contextmanager
def counting_gradients(params: Iterable[Tensor]) -> Iterator[Counter[int]]:
    """Counts, within a block, how often each parameter is given a gradient."""
    counts: Counter[int] = Counter()
    handles = [
        param.register_post_accumulate_grad_hook(partial(_count, counts))
        for param in params
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _count(counts: Counter[int], param: Tensor) -> None:
    counts[id(param)] += 1


def refuse_hooks() -> NoReturn:
    """Refuses hooks on gradients that come in several parts.

    Raises:
        DynamicPairError: In any case.
    """
    raise DynamicPairError(
        "a parameter has a hook on its gradient, which autograd would call "
        "several times in a step, with a part of it each; expected one "
        "backward pass: use vectorize_particles=True, or pyro.infer.SVI"
    )


def call_hooks(param: Tensor, grad: Tensor) -> Tensor | None:
    """Returns a gradient as the parameter's hooks leave it.

    Hooks that wait until it was accumulated see it with the gradient that the
    parameter has already, which is then no longer the parameter's.

    Returns:
        The gradient; None if a hook has cleared it, as hooks that step the
        optimizer themselves do.
    """
    grad = grad.clone()  # which they may keep
    for hook in list(get_hooks(param).values()):
        changed = hook(grad)
        grad = grad if changed is None else changed
    late = list(get_late_hooks(param).values())
    if not late:
        return grad
    param.grad = grad if param.grad is None else param.grad + grad
    for wait in late:
        wait(param)
    left, param.grad = param.grad, None
    return left
