"""The options of a compiled step."""

import warnings

import torch

from pyro_vae.svi.matmul import check_precision

MANY = 16  # graphs, from which an argument is likely to change at every step

# Engines, and the number of runs before they compile. A graph that is not
# compiled takes several times as long as a compiled one, but is there at once.
PATIENCE = {"compiled": 0, "auto": 1000}


def check_options(precision: str, compare: bool, engine: str) -> None:
    """Raises ValueError for an option that `CompiledGradients` cannot take."""
    check_precision(precision)
    if engine not in PATIENCE:
        raise ValueError(
            f"engine is {engine!r}; expected one of {', '.join(PATIENCE)}"
        )
    if not isinstance(compare, bool):
        raise ValueError(f"compare is {compare!r}; expected True or False")


def check_grad_enabled() -> None:
    """Raises ValueError where torch computes no gradient."""
    if not torch.is_grad_enabled():
        raise ValueError(
            "the step runs inside torch.no_grad() or inference_mode(), where "
            "there are no gradients; expected it outside, or evaluate_loss"
        )


def warn_of_many(number: int) -> None:
    """Warns, once, where there are so many graphs that something changes."""
    if number == MANY:
        warnings.warn(
            f"{MANY} graphs have been compiled, one for each shape and Python "
            "value that the pair reads; pass a number that changes as a tensor",
            stacklevel=2,
        )
