"""Pyro's own SVI, made to say where a loss stops being finite."""

import math
from collections.abc import Callable
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
from pyro_vae.svi.pairs import Pair, Run
from pyro_vae.svi.shards import Shards
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
) -> SVI:
    """Makes a `pyro.infer.SVI` that refuses to step on a non-finite loss.

    Args:
        model: A Pyro model.
        guide: Its guide.
        optim: A Pyro optimizer.
        loss: A Pyro ELBO estimator.
        clip_norm: The largest norm of all gradients together; by default they
            are left as they are.
        shards: The processes that share each minibatch; by default this one
            has all of it.

    Returns:
        An SVI. Its `step` raises `NonFiniteLossError`, which names the site,
        before the optimizer touches a parameter.
    """

    estimator: Any = loss  # ELBO does not declare what its subclasses have
    shards = shards or Shards()
    pair = Pair(model, guide, loss, None, None, shards)

    def loss_and_grads(
        model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> float:
        with (
            poutine.trace(param_only=True) as capture,
            pair.sharing(args, kwargs),
        ):
            value = estimator.loss_and_grads(model, guide, *args, **kwargs)
        params = get_unconstrained(capture.trace)
        if not shards.is_alone:
            value = _sum(shards, value, params, loss)
        try:
            check_finite(value, shards, model, guide, *args, **kwargs)
        except NonFiniteLossError:
            for param in params:
                param.grad = None
            raise
        clip_gradients(params, clip_norm)
        return value

    return SVI(model, guide, optim, estimator.loss, loss_and_grads)


def _sum(
    shards: Shards, value: float, announced: list[Tensor], loss: ELBO
) -> float:
    """Sums the loss, its gradients and its report over the processes."""
    params = list(dict.fromkeys(announced))
    grads = {p: p.grad for p in params if p.grad is not None}
    like = next(iter(params)).detach()
    reporting = loss if isinstance(loss, ReportingELBO) else None
    report = reporting.report() if reporting else None
    run = Run(
        [like.new_tensor(value)],
        [*grads],
        [*grads.values()],
        params,
        [],
        report,
    ).summed(shards, is_compiled=False)
    for param, grad in run.by_parameter().items():
        param.grad = grad
    if reporting and run.report is not None:
        reporting.take_report(run.report)
    return run.losses[0].item()


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
        shards: The processes that it is the sum of, which all say the same.
        model: A Pyro model.
        guide: Its guide.
        args: Their arguments.
        kwargs: The same, by name.
    """
    if not math.isfinite(value):
        site = find_nonfinite_site(model, guide, *args, **kwargs)
        if not shards.is_alone:
            known = None if site == FINITE_AGAIN else site
            site = shards.first_of(known) or FINITE_AGAIN
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
