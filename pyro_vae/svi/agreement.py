"""Whether a compiled step gives what an eager one does.

Rounding makes a difference of its own: an image whose input to a ReLU is next
to zero may add all of its gradient, or nothing. A computation that rounds gives
what an exact one gives for parameters that are off by a rounding, so that eager
runs at such parameters tell how much rounding can do (N. Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 1.5).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pyro_vae.svi.equality import are_equal
from pyro_vae.svi.pairs import End, Run
from pyro_vae.svi.random_states import are_same_states, get_random_states
from pyro_vae.svi.refusals import DynamicPairError

DIRECTIONS = 2  # each there and back: what is next to a kink is then across it
ROUNDINGS = 16  # of a parameter, by which it is moved at most
SLACK = 3.0  # times what such moves do


class DisagreementError(DynamicPairError):
    """A compiled step and an eager one differ."""


def check_agreement(expected: Sequence[Run], run: Run, precision: str) -> None:
    """Compares the results of a graph with those of eager runs.

    Args:
        expected: An eager run; after it, those of `run_nearby`, which show by
            how much rounding can move it.
        run: The results of the graph.
        precision: The precision of the graph's products.

    Raises:
        DisagreementError: If they are not the same.
        DynamicPairError: If the graph has left something else behind.
    """
    truth, *nearby = expected
    if truth.end is not None:
        _check_end(truth.end, _tolerance(truth.losses[0].dtype, precision))
    values, others = _list_values(truth), _list_values(run)
    finite = all(bool(value.isfinite().all()) for value in values.values())
    if not finite:
        return  # the step raises, and says where
    same_parameters = values.keys() == others.keys()
    off = [0.0]
    if same_parameters:
        given = [values[param] for param in truth.stepped]
        sizes = [float(g.abs().max()) for g in given if g.numel()]
        least = max(1e-3 * max(sizes, default=0.0), 1e-30)
        moved = [_list_values(one) for one in nearby]
        off = [
            (_distance(value, others[key]) - SLACK * _most(value, key, moved))
            / max(float(value.abs().max()), least)
            for key, value in values.items()
            if value.numel()
        ]
    tolerance = _tolerance(truth.losses[0].dtype, precision)
    if not same_parameters or not all(o <= tolerance for o in off):
        now, then = float(run.losses[0]), float(truth.losses[0])
        raise DisagreementError(
            f"the compiled step and an eager one differ: their losses are "
            f"{now:.6g} and {then:.6g}, and their gradients differ by up to "
            f"{max(off):.2g} of their size: the pair depends on something "
            "that has changed in Python: pass it as an argument, or use "
            "pyro.infer.SVI"
        )


def _check_end(end: End, tolerance: float) -> None:
    """Compares what an eager run has left with what there is now."""
    if not are_same_states(end.states, get_random_states()):
        raise DynamicPairError(
            "the model or guide sets the state of torch's random generator, by "
            "a seed, fork_rng or set_rng_state; expected that it only draws: "
            "set seeds before the step, or use pyro.infer.SVI"
        )
    for tensor, value in end.tensors:
        if not _is_near(tensor, value, tolerance):
            raise DynamicPairError(
                "the compiled step leaves other numbers than an eager one in a "
                f"tensor of shape {tuple(value.shape)} that both change in "
                "place, an argument or a buffer; expected the same: use "
                "pyro.infer.SVI"
            )


def _is_near(tensor: Tensor, value: Tensor, tolerance: float) -> bool:
    """Returns whether two tensors are the same but for rounding."""
    if tensor.layout != torch.strided or are_equal(tensor, value):
        return True
    if not value.is_floating_point() or not value.isfinite().all():
        return False
    size = max(float(value.abs().max()), 1e-30)
    return _distance(tensor, value) <= tolerance * size


def run_nearby(
    truth: Run, precision: str, run: Callable[[], Run]
) -> Iterator[Run]:
    """Yields eager runs at parameters that are off by roundings.

    Each moves to one side and to the other. Parameters end as they were.

    Args:
        truth: A run at the parameters themselves.
        precision: The precision of the products that round.
        run: Runs the pair, and leaves no trace.
    """
    params = [param for param in truth.announced if param.numel()]
    kept = [param.detach().clone() for param in params]
    is_reduced = _is_reduced(precision)
    generator = torch.Generator().manual_seed(0)
    try:
        for _ in range(DIRECTIONS):
            draws = [
                2 * torch.rand(value.shape, generator=generator) - 1
                for value in kept
            ]
            for side in (1.0, -1.0):
                for param, value, draw in zip(params, kept, draws, strict=True):
                    kind = torch.bfloat16 if is_reduced else value.dtype
                    size = 1 if is_reduced else ROUNDINGS
                    move = side * size * torch.finfo(kind).eps * draw.to(value)
                    param.detach().copy_(value * (1 + move))
                yield run()
    finally:
        for param, value in zip(params, kept, strict=True):
            param.detach().copy_(value)


def _list_values(run: Run) -> dict[object, Tensor]:
    """Returns losses, by their places, and gradients, by their parameters."""
    values: dict[object, Tensor] = dict(enumerate(run.losses))
    for param, gradient in run.by_parameter().items():
        is_dense = gradient.layout == torch.strided
        values[param] = gradient if is_dense else gradient.to_dense()
    return values


def _distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def _most(
    value: Tensor, key: object, moved: Sequence[dict[object, Tensor]]
) -> float:
    """Returns how far nearby runs are from a value, at most."""
    distances = [_distance(value, one[key]) for one in moved if key in one]
    return max(filter(math.isfinite, distances), default=0.0)


def _is_reduced(precision: str) -> bool:
    """Returns whether products are in less than their operands' precision."""
    return precision != "highest" or torch.is_autocast_enabled("cpu")


def _tolerance(dtype: torch.dtype, precision: str) -> float:
    """Returns how far two computations may differ by rounding, relatively.

    The eager runs do not round as much as the graph where it is reduced.
    """
    if _is_reduced(precision):
        return 0.3
    return 1e-4 if dtype == torch.float64 else 2e-2
