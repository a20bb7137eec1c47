"""Pyro's own SVI, made to say where a loss stops being finite."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi.compat import get_unconstrained
from pyro_vae.svi.estimator import ReportingELBO
from pyro_vae.svi.optimizers import clip_gradients
from pyro_vae.svi.shards import Shards, resize_rows
from pyro_vae.svi.watch import ModuleCalls

FINITE_AGAIN = "(a second run with other noise was finite)"


class NonFiniteLossError(ArithmeticError):
    """The loss is NaN or infinite; the parameters are left as they were."""


def make_svi(
    model: Callable,
    guide: Callable,
    optim: PyroOptim,
    loss: ELBO,
    clip_norm: float | None = None,
    shards: Shards | None = None,
    means: Sequence[Tensor] = (),
) -> SVI:
    """Makes a `pyro.infer.SVI` that refuses to step on a non-finite loss.

    Args:
        model: A Pyro model.
        guide: Its guide.
        optim: A Pyro optimizer.
        loss: A Pyro ELBO estimator.
        clip_norm: The largest norm of all gradients together; by default they
            are left as they are.
        shards: The processes that share each minibatch. Each calls `step` with
            its own rows, after `begin`, on a pair whose log-densities are
            scaled by N / B. By default this process has all of it.
        means: Tensors that a step moves in proportion to means over its
            images, such as a baseline.

    Returns:
        An SVI. Its `step` raises `NonFiniteLossError`, which names the site,
        before the optimizer touches a parameter.
    """
    estimator: Any = loss  # ELBO does not declare what its subclasses have
    shards = shards or Shards()

    def loss_and_grads(*args: Any, **kwargs: Any) -> float:
        return _differentiate(estimator, shards, clip_norm, means, args, kwargs)

    return SVI(model, guide, optim, estimator.loss, loss_and_grads)


def _differentiate(
    estimator: Any,
    shards: Shards,
    clip_norm: float | None,
    means: Sequence[Tensor],
    args: tuple,
    kwargs: dict,
) -> float:
    """Returns the loss, and leaves its gradients; model and guide are first."""
    before = [mean.clone() for mean in means]
    run = rehearse(estimator, shards, args, kwargs)
    with (
        poutine.trace(param_only=True) as capture,
        shards.drawing("step", run),
    ):
        value = estimator.loss_and_grads(*args, **kwargs)
    params = get_unconstrained(capture.trace)
    if not shards.is_alone:
        value = sum_step(shards, value, params, estimator, means)
    try:
        check_finite(value, *args, **kwargs)
    except NonFiniteLossError as error:
        for param in params:
            param.grad = None
        for mean, old in zip(means, before, strict=True):
            mean.copy_(old)
        said = str(error)
        known = None if said.endswith(FINITE_AGAIN) else said
        raise NonFiniteLossError(shards.first_of(known) or said) from None
    clip_gradients(params, clip_norm)
    return value


def rehearse(
    estimator: Any, shards: Shards, args: tuple, kwargs: dict
) -> Callable[[int], None]:
    """Returns what runs an estimator on another number of rows, to no effect.

    Args:
        estimator: A Pyro ELBO estimator.
        shards: The processes, of which this one has begun a minibatch.
        args: Model, guide, and their arguments for this process's rows.
        kwargs: The same, by name.
    """

    def run(number: int) -> None:
        model, guide, *given = args
        count = shards.part.count
        with (
            poutine.trace(param_only=True) as capture,
            ModuleCalls(model, guide) as calls,
        ):
            estimator.loss_and_grads(
                model,
                guide,
                *resize_rows(given, count, number),
                **resize_rows(kwargs, count, number),
            )
        with torch.no_grad():
            for buffer, value in calls.buffers:
                buffer.copy_(value)
        for param in get_unconstrained(capture.trace):
            param.grad = None

    return run


def sum_step(
    shards: Shards,
    value: float,
    announced: Sequence[Tensor],
    loss: ELBO,
    means: Sequence[Tensor],
) -> float:
    """Sums what each process's step has computed, and returns the loss.

    Args:
        shards: The processes.
        value: This one's loss.
        announced: The parameters, whose gradients become the sums.
        loss: The estimator, whose report becomes the sum.
        means: The means over this process's rows, which become those over the
            whole minibatch.
    """
    params = [p for p in dict.fromkeys(announced) if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    value_and_known = torch.tensor(
        [value, *(p.grad is not None for p in params)],
        dtype=grads[0].dtype,
        device=grads[0].device,
    )
    reports = [loss.report()] if isinstance(loss, ReportingELBO) else []
    sums, new_means = shards.sum([value_and_known, *grads, *reports], means)
    total, *known = sums.pop(0).tolist()
    if isinstance(loss, ReportingELBO):
        loss.take_report(sums.pop())
    for param, grad, count in zip(params, sums, known, strict=True):
        param.grad = grad if count else None
    with torch.no_grad():
        for mean, new in zip(means, new_means, strict=True):
            mean.copy_(new)
    return total


def check_finite(
    value: float, model: Callable, guide: Callable, *args: Any, **kwargs: Any
) -> None:
    """Raises NonFiniteLossError, with the site, for a loss that is not finite.

    Args:
        value: The loss.
        model: A Pyro model.
        guide: Its guide.
        args: Their arguments.
        kwargs: The same, by name.
    """
    if not math.isfinite(value):
        site = find_nonfinite_site(model, guide, *args, **kwargs)
        raise NonFiniteLossError(f"the loss is {value} {site}")


@torch.no_grad()
def find_nonfinite_site(
    model: Callable, guide: Callable, *args: Any, **kwargs: Any
) -> str:
    """Runs a pair once more and says where it stops being finite.

    Random states and the modules' buffers are left as they were.

    Returns:
        The end of a sentence that begins with "the loss is nan", such as
        "at site 'z' of the guide".
    """
    with (
        torch.random.fork_rng(),
        pyro.validation_enabled(False),
        ModuleCalls(model, guide) as calls,
    ):
        site = _find_nonfinite_site(model, guide, *args, **kwargs)
    for buffer, value in calls.buffers:
        buffer.copy_(value)
    return site


def _find_nonfinite_site(
    model: Callable, guide: Callable, *args: Any, **kwargs: Any
) -> str:
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(
        *args, **kwargs
    )
    for place, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in trace.nodes.items():
            if site["type"] == "param" and not _is_finite(site["value"]):
                return f"because parameter {name!r} is not finite"
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not (
                _is_finite(site["value"]) and _is_finite(site["log_prob"])
            ):
                return f"at site {name!r} of the {place}"
    return FINITE_AGAIN


def _is_finite(value: object) -> bool:
    return not torch.is_tensor(value) or bool(value.isfinite().all())
