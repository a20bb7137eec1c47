"""One optimisation step: Pyro's SVI, and the state of its optimiser."""

import math
from collections.abc import Callable, Iterable

import torch
from pyro import poutine
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from torch import Tensor, nn


class NonFiniteLossError(ArithmeticError):
    """The loss is NaN or infinite; the parameters are left as they were."""


def make_svi(
    model: Callable, guide: Callable, optim: PyroOptim, loss: ELBO
) -> SVI:
    """Makes a `pyro.infer.SVI` that refuses to step on a non-finite loss.

    Args:
        model: A Pyro model.
        guide: Its guide.
        optim: A Pyro optimiser.
        loss: A Pyro ELBO estimator.

    Returns:
        SVI, whose `step` raises `NonFiniteLossError`, naming the site, before
        the optimiser touches a parameter.
    """

    def loss_and_grads(model, guide, *args, **kwargs):
        value = loss.loss_and_grads(model, guide, *args, **kwargs)
        if not math.isfinite(value):
            site = find_nonfinite_site(model, guide, *args, **kwargs)
            raise NonFiniteLossError(f"the loss is {value} {site}")
        return value

    return SVI(
        model, guide, optim, loss=loss.loss, loss_and_grads=loss_and_grads
    )


@torch.no_grad()
def find_nonfinite_site(
    model: Callable, guide: Callable, *args, **kwargs
) -> str:
    """Runs a pair once more and says where it stops being finite.

    Returns:
        Words that follow "the loss is not finite".
    """
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
    return "(a second run with other noise was finite)"


def optimizer_state(
    optim: PyroOptim, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """Returns the optimiser's state, named by parameter, as tensors.

    Args:
        optim: A Pyro optimiser.
        parameters: The module's `named_parameters()`.

    Returns:
        Entries such as `decoder.0.weight.exp_avg`; none for a parameter that
        has not been stepped.
    """
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in parameters
        if parameter in optim.optim_objs
        for key, value in optim.optim_objs[parameter].state[parameter].items()
    }


def load_optimizer_state(
    optim: PyroOptim,
    parameters: Iterable[tuple[str, nn.Parameter]],
    state: dict[str, Tensor],
) -> None:
    """Puts back what `optimizer_state` returned, on the parameters' device."""
    for name, parameter in parameters:
        entries = {
            key.removeprefix(f"{name}."): value
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
        if entries:
            parameter.grad = None
            optim([parameter])  # makes its optimiser; steps no parameter
            optim.optim_objs[parameter].state[parameter] = {
                key: value.to(parameter.device) if value.dim() else value
                for key, value in entries.items()
            }


def _is_finite(value: object) -> bool:
    return not torch.is_tensor(value) or bool(value.isfinite().all())
