"""Optimizers: what steps in their place, their step sizes and their state."""

from collections.abc import Iterable

import torch
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor, nn

from pyro_vae.svi.compat_pyro import (
    adopt_parameters,
    get_constructor,
    get_torch_optimizers,
)
from pyro_vae.svi.fused import FusedUpdates
from pyro_vae.svi.updates import EagerUpdates, Updates

_FUSED = (torch.optim.Adam, torch.optim.AdamW, ClippedAdam)


def make_updates(optim: PyroOptim | torch.optim.Optimizer) -> Updates:
    """Returns what updates parameters as an optimizer does.

    Args:
        optim: A Pyro optimizer; `Adam`, `AdamW` and `ClippedAdam` become one
            kernel, the others step as in Pyro. Or a torch optimizer, which
            updates those of the parameters that it was given.

    Raises:
        ValueError: For another optimizer.
    """
    check_optimizer(optim)
    if isinstance(optim, PyroOptim) and _is_fusible(optim):
        return FusedUpdates(optim)
    return EagerUpdates(optim)


def check_optimizer(optim: object) -> None:
    """Raises ValueError for an optimizer that `make_updates` cannot take."""
    kind = get_constructor(optim) if isinstance(optim, PyroOptim) else None
    if isinstance(optim, torch.optim.LBFGS) or kind is torch.optim.LBFGS:
        raise ValueError(
            "the optimizer is LBFGS, which evaluates the loss itself; expected "
            "one that steps on given gradients"
        )
    if not isinstance(optim, PyroOptim | torch.optim.Optimizer):
        raise ValueError(
            f"the optimizer is of type {type(optim).__name__}; expected one of "
            "pyro.optim, or a torch optimizer over given parameters"
        )


def _is_fusible(optim: PyroOptim) -> bool:
    """Returns whether one kernel can do what an optimizer does."""
    if isinstance(optim, PyroLRScheduler):
        return False
    options = optim.pt_optim_args
    is_centered = isinstance(options, dict) and options.get("centered_variance")
    return get_constructor(optim) in _FUSED and not is_centered


def clip_gradients(params: Iterable[Tensor], max_norm: float | None) -> None:
    r"""Shortens the gradient to a norm, keeping its direction, in place.

    .. math:: g \leftarrow g \min(1, c / \|g\|_2)

    The norm is that of all parameters together (torch adds 1e-6 to it). A
    Pyro optimizer's own `clip_norm` is for each parameter by itself, which
    turns the direction.

    Args:
        params: Parameters; one may come twice, or have no gradient.
        max_norm: c, in units of the loss per unit of the parameters; None
            leaves everything as it is.
    """
    if max_norm is not None:
        unique = dict.fromkeys(params)  # tensors hash by identity
        nn.utils.clip_grad_norm_(list(unique), max_norm)


def shorten(grads: list[Tensor], max_norm: float | None) -> list[Tensor]:
    """Returns gradients as `clip_gradients` leaves them."""
    if max_norm is None or not grads:
        return grads
    norm = nn.utils.get_total_norm(grads)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # 1e-6 as torch has it
    return [grad * factor.to(grad) for grad in grads]


def set_learning_rate(
    optim: PyroOptim, parameters: Iterable[nn.Parameter], rate: float
) -> None:
    """Sets the step size of parameters from the next step on.

    It is set in each parameter's torch optimizer, where `pyro.infer.SVI` and
    `CompiledSVI` both read it.

    Args:
        optim: A Pyro optimizer.
        parameters: The pair's parameters; frozen ones are left as they are.
        rate: The step size, positive.
    """
    optimizers = get_torch_optimizers(optim)
    for parameter in parameters:
        if parameter.requires_grad:
            adopt_parameters(optim, [parameter])
            optimizers[parameter].param_groups[0]["lr"] = rate


def optimizer_state(
    optim: PyroOptim, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """Returns the optimizer's state, named by parameter, as tensors.

    Args:
        optim: A Pyro optimizer.
        parameters: A module's `named_parameters()`.

    Returns:
        Entries such as `decoder.0.weight.exp_avg`; none for a parameter that
        has not been stepped.
    """
    optimizers = get_torch_optimizers(optim)
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in parameters
        if parameter in optimizers
        for key, value in optimizers[parameter].state[parameter].items()
    }


def load_optimizer_state(
    optim: PyroOptim,
    parameters: Iterable[tuple[str, nn.Parameter]],
    state: dict[str, Tensor],
) -> None:
    """Puts an optimizer's state back, on the parameters' device.

    Args:
        optim: A Pyro optimizer.
        parameters: A module's `named_parameters()`.
        state: The entries that `optimizer_state` returned.
    """
    optimizers = get_torch_optimizers(optim)
    for name, parameter in parameters:
        entries = {
            key.removeprefix(f"{name}."): value
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
        if entries:
            adopt_parameters(optim, [parameter])
            optimizers[parameter].state[parameter] = {
                key: value.to(parameter.device) if value.dim() else value
                for key, value in entries.items()
            }
