"""Which of torch's kernels multiplies two matrices fastest on this machine.

They differ by up to a factor of two, and which one is ahead depends on the
processor, on the threads and on the shape. It is measured once, and kept in
`kernels.json` in the user's cache folder, so that a seed has one trace.
"""

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.files import find_cache, write_atomically
from pyro_vae.svi.inductor import describe_processor, multiply_by_onednn

SECONDS = 0.05  # to measure a product for
ROUNDS = 5  # at least
AHEAD = 0.95  # of torch's own time, for another kernel to be worth it
CALL = 5e-5  # seconds more that a kernel takes which Python calls, and not C


KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch": torch.mm,  # in MKL, in most of its builds
    "onednn": multiply_by_onednn,
    "bfloat16": torch.mm,  # of rounded operands, summed in float32
}


def list_kernels(precision: str) -> list[str]:
    """Returns the kernels that this processor has for a precision.

    Args:
        precision: One of `highest`, `high` and `medium`; the last may round.
    """
    kernels = ["torch"]
    if torch.backends.mkldnn.is_available():
        kernels.append("onednn")
    processor = describe_processor()
    if precision == "medium" and (
        processor.get("avx512_bf16") or processor.get("amx_bf16")
    ):
        kernels.append("bfloat16")
    return kernels


def choose_kernel(left: Tensor, right: Tensor, precision: str) -> str:
    """Returns the fastest kernel's name for a float32 product on the CPU.

    Where the choice cannot be kept, it is always torch's own, or `bfloat16` at
    `medium`: two fits with the same seed are to take the same one.

    Args:
        left: A matrix of shape `(n, k)`; its values do not matter.
        right: A matrix of shape `(k, m)`.
        precision: One of `highest`, `high` and `medium`.
    """
    kernels = list_kernels(precision)
    if len(kernels) == 1:
        return kernels[0]
    return _choose(
        _describe(left), _describe(right), tuple(kernels), _describe_machine()
    )


def time_kernels(
    left: Tensor, right: Tensor, kernels: Sequence[str]
) -> dict[str, float]:
    """Returns the seconds of each kernel, the least of interleaved runs.

    What a kernel wants beforehand (matrices in rows, rounded ones) is not
    counted.
    """
    products = {
        name: functools.partial(
            KERNELS[name], *prepare_operands(left, right, name)
        )
        for name in kernels
    }
    return _time(products, SECONDS)


def prepare_operands(
    left: Tensor, right: Tensor, name: str
) -> tuple[Tensor, Tensor]:
    """Returns the operands of a product as a kernel wants them."""
    if name == "bfloat16":
        return left.bfloat16(), right.bfloat16()
    if name == "onednn":  # it would copy a transposed one
        return left.contiguous(), right
    return left, right


Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides


def _describe(matrix: Tensor) -> Layout:
    return tuple(matrix.shape), tuple(matrix.stride())


@functools.cache
def _choose(
    left: Layout, right: Layout, kernels: tuple[str, ...], machine: str
) -> str:
    key = f"{machine} {left} {right} {' '.join(kernels)}"
    try:
        path = find_cache() / "kernels.json"
        choices = _read_choices(path)
        if choices.get(key) not in kernels:
            choice = _measure(left, right, kernels)
            # Another process may have measured it meanwhile.
            choices = {key: choice, **_read_choices(path)}
            if choices[key] not in kernels:
                choices[key] = choice
            _write_choices(path, choices)
    except OSError:
        return "bfloat16" if "bfloat16" in kernels else "torch"
    return choices[key]


def _write_choices(path: Path, choices: dict[str, str]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f"kernels.{os.getpid()}.json")  # one for each process
    write_atomically(own, json.dumps(choices, indent=2).encode() + b"\n")
    os.replace(own, path)


def _read_choices(path: Path) -> dict[str, str]:
    """Returns the choices of a file; none if there is no such file."""
    try:
        choices = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _measure(left: Layout, right: Layout, kernels: Sequence[str]) -> str:
    first, second = _make(left), _make(right)
    times = time_kernels(first, second, kernels)
    if "onednn" in times and not first.is_contiguous():
        times["onednn"] += _time({"copy": first.contiguous}, 0.0)["copy"]
    # Of two that are about as fast, the choice is always the same.
    return min(
        kernels,
        key=lambda name: (
            times[name] * AHEAD if name == "torch" else times[name] + CALL
        ),
    )


def _time(
    functions: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, float]:
    """Returns each function's seconds, the least of interleaved runs.

    Args:
        functions: The functions.
        seconds: How long they are to run; longer if rounds are too few.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    started, rounds = time.perf_counter(), 0
    with torch.no_grad():
        while rounds <= ROUNDS or time.perf_counter() - started < seconds:
            for name, function in functions.items():
                before = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - before)
            rounds += 1
    # The first round warms up.
    return {name: min(each[1:]) for name, each in times.items()}


def _make(layout: Layout) -> Tensor:
    return torch.empty_strided(
        *layout, dtype=torch.float32, device="cpu"
    ).fill_(1.0)


def _describe_machine() -> str:
    """Returns a digest of all that a kernel's speed depends on."""
    facts = [
        torch.__version__,
        torch.get_num_threads(),
        sorted(describe_processor().items()),
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
