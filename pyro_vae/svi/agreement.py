"""Whether a compiled step gives what an eager one does."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_vae.svi.pairs import Run
from pyro_vae.svi.refusals import DynamicPairError


def check_agreement(
    expected: Run,
    losses: Sequence[Tensor],
    gradients: Mapping[Tensor, Tensor],
    precision: str,
) -> None:
    """Compares the results of a graph with those of an eager run.

    Rounding makes a difference of its own, which grows with the number of
    operations: what is found is another loss, and not another rounding.

    Raises:
        DynamicPairError: If they are not the same.
    """
    same_parameters = set(expected.gradients) == set(gradients)
    pairs = [*zip(expected.losses, losses, strict=True)]
    if same_parameters:
        pairs += [(g, gradients[p]) for p, g in expected.gradients.items()]
    finite = all(bool(value.isfinite().all()) for value, _ in pairs)
    if not finite:
        return  # the step raises, and says where
    tolerance = _tolerance(expected.losses[0].dtype, precision)
    gradients_then = [g for g in expected.gradients.values() if g.numel()]
    largest = max([float(g.abs().max()) for g in gradients_then], default=0.0)
    off = [
        float((value - other).abs().max())
        / max(float(value.abs().max()), 1e-3 * largest, 1e-30)
        for value, other in pairs
        if value.numel()
    ]
    if not same_parameters or not max(off) <= tolerance:
        raise DynamicPairError(
            f"the compiled step and an eager one differ: their losses are "
            f"{float(losses[0]):.6g} and {float(expected.losses[0]):.6g}, and "
            f"their gradients differ by up to {max(off):.2g} of their size: "
            "the pair depends on something that has changed in Python: "
            "pass it as an argument, or use pyro.infer.SVI"
        )


def _tolerance(dtype: torch.dtype, precision: str) -> float:
    """Returns how far two computations may differ by rounding, relatively."""
    if precision != "highest" or torch.is_autocast_enabled("cpu"):
        return 0.3
    return 1e-4 if dtype == torch.float64 else 2e-2
