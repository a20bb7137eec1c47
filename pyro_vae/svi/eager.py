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

from pyro_vae.svi.compat_pyro import get_unconstrained
from pyro_vae.svi.estimator import ReportingELBO
from pyro_vae.svi.joint import Joint
from pyro_vae.svi.optimizers import clip_gradients
from pyro_vae.svi.pairs import ALONE, Pair
from pyro_vae.svi.reads import Reads
from pyro_vae.svi.shards import Shards
from pyro_vae.svi.undo import Undo
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
    shards = shards or ALONE
    joint = Joint(shards, clip_norm, means)

    def loss_and_grads(*args: Any, **kwargs: Any) -> float:
        return _differentiate(estimator, joint, args, kwargs)

    return SVI(model, guide, optim, estimator.loss, loss_and_grads)


def _differentiate(
    estimator: Any, joint: Joint, args: tuple, kwargs: dict
) -> float:
    """Returns the loss, and leaves its gradients; model and guide are first."""
    before = [mean.clone() for mean in joint.means]
    value, params = _run(estimator, joint, args, kwargs)
    try:
        check_finite(value, joint.shards, *args, **kwargs)
    except NonFiniteLossError:
        for param in params:
            param.grad = None
        for mean, old in zip(joint.means, before, strict=True):
            mean.copy_(old)
        raise
    if joint.shards.is_alone:
        clip_gradients(params, joint.clip_norm)
    return value


def _run(
    estimator: Any, joint: Joint, args: tuple, kwargs: dict
) -> tuple[float, list[Tensor]]:
    """Leaves the gradients of a loss, summed over all processes.

    Returns:
        The loss, and the parameters that were announced.
    """
    if joint.shards.is_alone:
        with poutine.trace(param_only=True) as capture:
            value = estimator.loss_and_grads(*args, **kwargs)
        return value, get_unconstrained(capture.trace)
    model, guide, *given = args
    pair = Pair(model, guide, estimator, None, None, joint.shards, joint.means)
    run = joint.run(lambda: pair.run(tuple(given), kwargs))
    for param, grad in run.by_parameter().items():
        param.grad = grad
    if isinstance(estimator, ReportingELBO) and run.report is not None:
        estimator.take_report(run.report)
    return run.losses[0].item(), run.announced


def check_finite(
    value: float,
    shards: Shards,
    model: Callable,
    guide: Callable,
    *args: Any,
    **kwargs: Any,
) -> None:
    """Raises NonFiniteLossError, with the site, for a loss that is not finite.

    Args:
        value: The loss.
        shards: The processes whose loss it is; all raise the same error.
        model: A Pyro model.
        guide: Its guide.
        args: Their arguments.
        kwargs: The same, by name.
    """
    if math.isfinite(value):
        return
    with shards.failing_together():
        site = find_nonfinite_site(model, guide, *args, **kwargs)
    if not shards.is_alone:  # another process may know it
        site = shards.first_of(None if site == FINITE_AGAIN else site) or site
    raise NonFiniteLossError(f"the loss is {value} {site}")


@torch.no_grad()
def find_nonfinite_site(
    model: Callable, guide: Callable, *args: Any, **kwargs: Any
) -> str:
    """Runs a pair once more and says where it stops being finite.

    It leaves no trace: no draw, parameter, attribute or buffer.

    Returns:
        The end of a sentence that begins with "the loss is nan", such as
        "at site 'z' of the guide".
    """
    reads = Reads(model, guide)
    spaces = [*reads.spaces, vars(pyro.get_param_store())]
    undo = Undo([args, kwargs, *spaces], reads.places.values())
    calls = ModuleCalls(model, guide)
    try:
        with pyro.validation_enabled(False), calls:
            return _find_nonfinite_site(model, guide, *args, **kwargs)
    finally:
        undo.restore()
        for buffer, value in calls.buffers:
            buffer.copy_(value)


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
