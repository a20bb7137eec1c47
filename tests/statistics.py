"""Statistical checks, and how often they fail by chance, stated once.

Each check fails for correct code with probability 2e-5, two-sided: a normal
deviate exceeds 4.26 in absolute value that often.
"""

import torch
from torch import Tensor

FAILURE_RATE = 2e-5
Z_LIMIT = 4.26


def assert_mean(samples: Tensor, truth: Tensor | float) -> None:
    """Checks that samples, independent along dim 0, have a mean.

    With several entries each is held to a limit that keeps the failure rate
    of the whole at `FAILURE_RATE` (Bonferroni).
    """
    samples = samples.detach().double()
    error = samples.mean(0) - torch.as_tensor(truth).detach()
    standard_error = samples.std(0) / len(samples) ** 0.5
    z = (error / standard_error).abs()
    limit = z_limit(z.numel())
    assert (z < limit).all(), f"|z| up to {z.max():.2f}, limit {limit:.2f}"


def z_limit(num_checks: int) -> float:
    """The limit for each of several simultaneous checks."""
    if num_checks == 1:
        return Z_LIMIT
    tail = torch.tensor(FAILURE_RATE / num_checks / 2, dtype=torch.float64)
    return -torch.special.ndtri(tail).item()
