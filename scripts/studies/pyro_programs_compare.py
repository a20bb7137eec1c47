"""The verdict on one SVI object in two runs, and its times."""

import math
import statistics
from typing import Any

import torch
from torch import Tensor

# The largest difference that rounding makes, relative to the larger value.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUNDING = 1e-11  # of the largest gradient

Object = dict[str, Any]  # the fields of a Record


def compare_objects(expected: Object, found: Object) -> str:
    """Returns the verdict on one SVI object in two runs."""
    if found["kind"]:
        return f"{found['kind']}: {found['message']}"
    tolerance = TOLERANCES[get_dtype(expected)]
    for name in ("losses", "seconds"):
        if len(found[name]) < len(expected[name]):
            return "not finished"
    for step, pair in enumerate(
        zip(expected["losses"], found["losses"], strict=False), 1
    ):
        difference = relative(*map(torch.tensor, pair))
        if not difference <= tolerance:
            return f"differs: loss {step} by {difference:.1g}"
    if expected["params"].keys() != found["params"].keys():
        return "differs: other parameters"
    ignored = list_without_gradient(expected)
    for name, value in expected["params"].items():
        if name in ignored:
            continue
        difference = relative(value, found["params"][name])
        if not difference <= tolerance:
            return f"differs: parameter {name} by {difference:.1g}"
    return "same"


def list_without_gradient(each: Object) -> list[str]:
    """Returns the parameters whose gradients are zero but for rounding.

    Adam makes steps of its full size of them, here and there other ones: a
    bias before a batch normalization, say.
    """
    gradients = each["gradients"]
    least = ROUNDING * max(gradients.values(), default=0.0)
    return [name for name, entry in gradients.items() if 0 < entry < least]


def relative(left: Tensor, right: Tensor) -> float:
    """Returns the largest difference over the largest value."""
    if left.shape != right.shape:
        return math.inf
    if torch.equal(left, right) or not left.numel():
        return 0.0
    left, right = left.nan_to_num(), right.nan_to_num()
    largest = torch.maximum(left.abs().max(), right.abs().max())
    return ((left - right).abs().max() / largest).item()


def get_dtype(each: Object) -> torch.dtype:
    """Returns the coarsest dtype among an object's parameters."""
    dtypes = {value.dtype for value in each["params"].values()}
    return torch.float32 if torch.float32 in dtypes else torch.float64


def measure(expected: list[Object], found: list[Object]) -> dict[str, float]:
    """Returns the times of one step of each object that took the same steps.

    Steps that compile, and steps 2, 4, 8, ..., which are compared with eager
    ones, do not count.
    """
    eager_ms = compiled_ms = compile_s = 0.0
    for slow, fast in zip(expected, found, strict=False):
        counts = [
            index
            for index, is_compiled in enumerate(fast["compiled"])
            if not is_compiled and (index + 1) & index
        ]
        steps = [index for index in counts if index < len(slow["seconds"])]
        if fast["kind"] or not steps:
            continue
        eager_ms += 1e3 * _median(slow["seconds"], steps)
        normal = _median(fast["seconds"], steps)
        compiled_ms += 1e3 * normal
        compile_s += sum(
            duration - normal
            for duration, is_compiled in zip(
                fast["seconds"], fast["compiled"], strict=True
            )
            if is_compiled
        )
    if not compiled_ms:
        return {}
    return {
        "eager_ms": eager_ms,
        "compiled_ms": compiled_ms,
        "ratio": eager_ms / compiled_ms,
        "compile_s": compile_s,
    }


def _median(durations: list[float], steps: list[int]) -> float:
    return statistics.median(durations[index] for index in steps)
