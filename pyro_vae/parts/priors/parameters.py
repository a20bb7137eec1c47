"""The parameters that priors share: scales and log-probabilities."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

MIN_SCALE = 1e-4  # in units of z, as in the guides
WEIGHTS = ("uniform", "learned")


def constrain_scale(unconstrained: Tensor) -> Tensor:
    """Returns the scale that an unconstrained parameter stands for."""
    return MIN_SCALE + softplus(unconstrained)


def unconstrain_scale(scale: float) -> float:
    """Returns the unconstrained parameter that stands for a scale."""
    excess = scale - MIN_SCALE
    return excess + math.log(-math.expm1(-excess))  # without overflow


def check_latent_dim(latent_dim: int) -> None:
    """Refuses a latent dimension below 1.

    Raises:
        ValueError: If it is below 1.
    """
    if latent_dim < 1:
        raise ValueError(f"latent_dim is {latent_dim}; expected at least 1")


def register_logits(
    module: nn.Module, shape: tuple[int, ...], weights: str
) -> None:
    """Gives a module its `logits`: equal probabilities, fixed or learned.

    Args:
        module: The prior.
        shape: The shape of the logits, `(..., K)`.
        weights: `uniform`, all of them 1 / K; or `learned`, starting there.

    Raises:
        ValueError: If K is below 2, or `weights` unknown.
    """
    if shape[-1] < 2:
        raise ValueError(f"num_components is {shape[-1]}; expected at least 2")
    if weights not in WEIGHTS:
        raise ValueError(
            f"weights is {weights!r}; expected one of {', '.join(WEIGHTS)}"
        )
    if weights == "learned":
        module.logits = nn.Parameter(torch.zeros(shape))
    else:
        module.register_buffer("logits", torch.zeros(shape), persistent=False)
