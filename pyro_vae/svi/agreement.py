"""Whether a compiled step gives what an eager one does."""

import torch

from pyro_vae.svi.pairs import Run
from pyro_vae.svi.refusals import DynamicPairError


def check_agreement(expected: Run, run: Run, precision: str) -> None:
    """Compares the results of a graph with those of an eager run.

    Rounding makes a difference of its own, which grows with the number of
    operations: what is found is another loss, and not another rounding.

    Raises:
        DynamicPairError: If they are not the same.
    """
    gradients = run.by_parameter()
    same_parameters = set(expected.stepped) == set(gradients)
    pairs = [*zip(expected.losses, run.losses, strict=True)]
    if same_parameters:
        pairs += [(g, gradients[p]) for p, g in expected.by_parameter().items()]
    finite = all(bool(value.isfinite().all()) for value, _ in pairs)
    if not finite:
        return  # the step raises, and says where
    tolerance = _tolerance(expected.losses[0].dtype, precision)
    sizes = [float(g.abs().max()) for g in expected.gradients if g.numel()]
    largest = max(sizes, default=0.0)
    off = [
        float((value - other).abs().max())
        / max(float(value.abs().max()), 1e-3 * largest, 1e-30)
        for value, other in pairs
        if value.numel()
    ]
    if not same_parameters or not max(off) <= tolerance:
        now, then = float(run.losses[0]), float(expected.losses[0])
        raise DynamicPairError(
            f"the compiled step and an eager one differ: their losses are "
            f"{now:.6g} and {then:.6g}, and their gradients differ by up to "
            f"{max(off):.2g} of their size: the pair depends on something "
            "that has changed in Python: pass it as an argument, or use "
            "pyro.infer.SVI"
        )


def _tolerance(dtype: torch.dtype, precision: str) -> float:
    """Returns how far two computations may differ by rounding, relatively."""
    if precision != "highest" or torch.is_autocast_enabled("cpu"):
        return 0.3
    return 1e-4 if dtype == torch.float64 else 2e-2
