"""A Pyro optimizer's step sizes and state, by parameter; gradient clipping."""

from collections.abc import Iterable

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae.svi.compat import adopt_parameters, get_torch_optimizers


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
