"""What a pair does with its rows, learned by running it on other ones."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import get_param_store, poutine
from pyro.distributions import Delta
from torch import Tensor, nn

from pyro_vae.svi.arguments import list_tensors
from pyro_vae.svi.compat_pyro import (
    get_unconstrained,
    is_subsample,
    list_baselines,
    outside_traces,
)
from pyro_vae.svi.reads import Reads
from pyro_vae.svi.undo import Undo
from pyro_vae.svi.watch import ModuleCalls

Shapes = dict[str, tuple[int, ...]]  # by the names of sites


def resize_rows(value: Any, count: int, number: int) -> Any:
    """Returns arguments with another number of rows.

    Args:
        value: A tensor, whose rows are repeated or left out if it has `count`
            of them; a number that is no integer, such as a share of the data
            set, which grows with them; a tuple, list or dictionary of such; or
            anything else.
        count: The number of rows.
        number: The number that they are to have.
    """
    if isinstance(value, Tensor):
        if value.dim() == 0 or len(value) != count:
            return value
        return value[torch.arange(number, device=value.device) % count]
    if isinstance(value, float):
        return value * number / count
    if isinstance(value, dict):
        return {k: resize_rows(v, count, number) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(resize_rows(v, count, number) for v in value)
    return value


def list_modes(*parts: Callable) -> tuple[bool, ...]:
    """Returns the modes of the modules that functions belong to."""
    owners = [getattr(part, "__self__", part) for part in parts]
    return tuple(
        [
            module.training
            for owner in owners
            if isinstance(owner, nn.Module)
            for module in owner.modules()
        ]
    )


@contextmanager
def running_aside(
    parts: Sequence[Callable],
    reads: Reads,
    given: Any,
    means: Sequence[Tensor],
) -> Iterator[set[str]]:
    """Runs a pair, once, in a block, and leaves no trace of it.

    Args:
        parts: The model and the guide.
        reads: What their code reads.
        given: Their arguments.
        means: Tensors that a run may move in proportion to a mean over rows.

    Yields:
        The names of the parameters that it makes, when it has.

    Raises:
        ValueError: If it changes a buffer in another way.
    """
    undo = Undo([*given, *list_tensors(given)], reads.places.values())
    store = get_param_store()
    grads = {p: p.grad for _, p in store.named_parameters()}
    for param in grads:
        param.grad = None
    calls, made = ModuleCalls(*parts), set[str]()
    try:
        with (
            outside_traces(),
            store.scope(store.get_state()),
            poutine.trace(param_only=True) as capture,
            calls,
        ):
            before = set(store)
            yield made
            made |= set(capture.trace.nodes) - before
            averages = list_baselines()
            for param in get_unconstrained(capture.trace):
                param.grad = None
    finally:
        undo.restore()
        for param, grad in grads.items():
            param.grad = grad
        changed = _put_back(calls.buffers)
    _check_left(averages, changed, means)


def _put_back(buffers: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Gives buffers their values, and returns those that had others."""
    changed = [b for b, value in buffers if not torch.equal(b, value)]
    for buffer, value in buffers:
        buffer.detach().copy_(value)
    return changed


def _check_left(
    averages: Sequence[str], changed: Sequence[Tensor], means: Sequence[Tensor]
) -> None:
    """Refuses what a run leaves of its own rows.

    Raises:
        ValueError: If it is a running average of Pyro's, or a buffer that is
            none of the means.
    """
    if averages:
        raise ValueError(
            "the step keeps a running average of the loss, a baseline of "
            "Pyro's, of which each process would have another one; expected "
            "no baseline, or a single process"
        )
    if {*map(id, changed)} - {*map(id, means)}:
        raise ValueError(
            f"the step changes a buffer of shape {tuple(changed[0].shape)}, "
            "such as a batch norm's, by the rows of one process; expected "
            "buffers that stay as they are, such as those of LayerNorm, or a "
            "single process"
        )


@torch.no_grad()
def list_sites(
    model: Callable, guide: Callable, args: tuple, kwargs: dict
) -> Shapes:
    """Runs a pair, and returns the shapes of its sites' log-densities.

    Raises:
        ValueError: If a plate draws rows of its own.
    """
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(
        *args, **kwargs
    )
    shapes = {}
    for place, trace in (("guide", guide_trace), ("model", model_trace)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] != "sample":
                continue
            if not is_subsample(site):
                if not _adds_nothing(site):
                    shape = tuple(site["log_prob"].shape)
                    shapes[f"{name!r} of the {place}"] = shape
                continue
            rows: Any = site["fn"]
            if (rows.subsample_size or math.inf) < rows.size:
                raise ValueError(
                    f"the plate {name!r} of the {place} draws its own rows, "
                    "the same in all processes; expected rows that are "
                    "arguments of the step, and a plate with subsample=them"
                )
    return shapes


def _adds_nothing(site: Any) -> bool:
    """Returns whether a log-density is 0 by what it is, and not by its value.

    It is that of a point, or of a guide's factor that stands for a gradient
    alone, which may be of rows that are none of the minibatch's. The latter
    has `is_gradient` in its `infer`, as that of `pair.follow_gradient` does.
    """
    if site["infer"].get("is_gradient"):
        return True
    distribution = site["fn"]
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    if isinstance(distribution, Delta):
        density = distribution.log_density
        return not (density.requires_grad or density.any())
    return False


def check_sites(shapes: Shapes, others: Shapes) -> None:
    """Refuses a site that each process would add as if it were alone.

    Args:
        shapes: The sites of a pair on some rows.
        others: Those on another number of rows.

    Raises:
        ValueError: If a site is the same for both.
    """
    for name, shape in shapes.items():
        if others.get(name) == shape:
            raise ValueError(
                f"site {name} is not of the rows, so that each process would "
                "add all of it to the loss; expected sites in the plate of the "
                "rows alone, or a single process"
            )
