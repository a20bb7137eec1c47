"""Sums and other reductions of loops, written in C.

A thread's chunk of rows is reduced into accumulators of its own. Their number
does not depend on the threads', so that neither do the results, and chunks
are short, so that long sums are exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pyro_vae.svi.loops.layout import Shape
from pyro_vae.svi.loops.loop import Loop, Result
from pyro_vae.svi.loops.operators import C_TYPES

INITIAL = {
    "sum": "0",
    "mean": "0",
    "max": "-__builtin_inf()",
    "min": "__builtin_inf()",
}
COMBINE = {
    "sum": "{0} += {1};",
    "mean": "{0} += {1};",
    "max": "if ({1} > {0} || {1} != {1}) {0} = {1};",
    "min": "if ({1} < {0} || {1} != {1}) {0} = {1};",
}


@dataclass
class Reduction:
    """One reduced result of a group.

    Attributes:
        loop: The loop that it belongs to.
        result: The result.
        strides: Of its accumulators, in each dimension of the nest; 0 in those
            that are reduced.
        count: The number of accumulators.
    """

    loop: Loop
    result: Result
    strides: Shape
    count: int


def declare_accumulators(
    place: int, reduction: Reduction, copies: int
) -> Iterator[str]:
    """Allocates the accumulators of all chunks, and sets them to begin."""
    kind, count = C_TYPES[reduction.loop.dtype], reduction.count * copies
    start = INITIAL[reduction.loop.reduction or ""]
    yield _allocate(kind, f"s{place}", count)
    yield f"for (long i = 0; i < {count}; i++) s{place}[i] = {start};"


def start_sums(reductions: list[Reduction], local: list[int]) -> Iterator[str]:
    """Declares what the innermost loop reduces to, and vectorizes the loop."""
    sums = []
    for number in local:
        loop = reductions[number].loop
        start = INITIAL[loop.reduction or ""]
        yield f"{C_TYPES[loop.dtype]} l{number} = {start};"
        if loop.reduction in ("sum", "mean"):
            sums.append(f"l{number}")
    if len(sums) == len(local):
        clause = f" reduction(+: {', '.join(sums)})" if sums else ""
        yield f"#pragma omp simd{clause}"


def add_to(
    reduction: Reduction, place: int, local: list[int], text: str
) -> Iterator[str]:
    """Adds an expression's value to an accumulator."""
    index = write_index(reduction.strides)
    target = f"l{place}" if place in local else f"a{place}[{index}]"
    yield f"const {C_TYPES[reduction.loop.dtype]} e{place} = {text};"
    yield COMBINE[reduction.loop.reduction or ""].format(target, f"e{place}")


def combine_chunks(
    place: int, reduction: Reduction, copies: int
) -> Iterator[str]:
    """Combines the accumulators of all chunks, in loops along memory."""
    count, combine = reduction.count, COMBINE[reduction.loop.reduction or ""]
    is_float = reduction.loop.dtype.is_floating_point
    kind = "double" if is_float else "long"
    yield _allocate(kind, f"d{place}", count)
    yield f"for (long i = 0; i < {count}; i++) d{place}[i] = s{place}[i];"
    yield f"for (long c = 1; c < {copies}; c++)"
    yield f"for (long i = 0; i < {count}; i++) {{"
    yield f"const {kind} part = s{place}[{count}L * c + i];"
    yield combine.format(f"d{place}[i]", "part")
    yield "}"
    yield f"free(s{place});"


def _allocate(kind: str, name: str, count: int) -> str:
    """Returns the declaration of an array of its own memory."""
    size = f"{max(count, 1)}L * sizeof({kind})"
    return f"{kind} *restrict const {name} = ({kind} *)malloc({size});"


def write_index(strides: Shape) -> str:
    """Returns an element's index, in C, from the loops' variables."""
    terms = [
        f"i{place}" if stride == 1 else f"{stride}L * i{place}"
        for place, stride in enumerate(strides)
        if stride
    ]
    return " + ".join(terms) or "0"
