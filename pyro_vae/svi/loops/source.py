"""Groups of loops, written in C."""

import math
import re
from collections.abc import Iterator

import torch
from torch import fx

from pyro_vae.svi.loops.gemm import write_pointers
from pyro_vae.svi.loops.groups import Group
from pyro_vae.svi.loops.layout import Access, Shape
from pyro_vae.svi.loops.loop import Operand
from pyro_vae.svi.loops.operators import (
    C_TYPES,
    FUNCTIONS,
    ROUNDED,
    declare_value,
)
from pyro_vae.svi.loops.pointers import Pointers
from pyro_vae.svi.loops.reductions import (
    COMBINE,
    Reduction,
    add_to,
    combine_chunks,
    declare_accumulators,
    start_sums,
    write_index,
)

LARGE = 1 << 15  # elements of a group that several threads share
CHUNK = 64  # rows that are summed before their sums are
MOST_CHUNKS = 64
TILE = 32  # elements of the innermost loop, where tensors lie across it
LINE = 16  # elements of a line of the cache
SHORT = 8  # a dimension that is not worth to be the innermost loop


def write_header() -> str:
    """Returns the declarations that all groups need."""
    lines = ["typedef unsigned short half_word; typedef unsigned int word;"]
    lines += write_pointers()
    for name in FUNCTIONS:
        for kind, letter in (("float", "f"), ("double", "")):
            count = 2 if name == "pow" else 1
            lines += [
                "#pragma omp declare simd notinbranch",
                f"extern {kind} {name}{letter}({', '.join([kind] * count)});",
            ]
    lines += [
        "extern void *malloc(unsigned long);",
        "extern void free(void *);",
        "static inline float widen(half_word given) {",
        "  union { word bits; float value; } u = {(word)given << 16};",
        "  return u.value;",
        "}",
        "static inline half_word round_even(float given) {",
        "  union { float value; word bits; } u = {given};",
        "  word up = u.bits + 0x7fff + ((u.bits >> 16) & 1);",
        "  return given != given ? 0x7fc0 : up >> 16;",
        "}",
    ]
    return "\n".join(lines)


class GroupSource:
    """Writes one group.

    Args:
        group: The group.
        stored: The nodes whose results are stored.
        pointers: Those to the nodes' tensors.
    """

    def __init__(self, group: Group, stored: set[fx.Node], pointers: Pointers):
        self.group, self.stored, self.pointers = group, stored, pointers
        self._loops = list(group.loops.values())
        self._reads: dict[Access, str] = {}
        self._variables: dict[fx.Node, str] = {}
        self._results = [
            (loop, result)
            for loop in self._loops
            for result in loop.results
            if loop.reduction is not None or loop.owner in stored
        ]
        for loop in self._loops:
            for operand in loop.operands:
                source = operand.source
                if isinstance(source, Access) and not group.computes(source):
                    self._reads.setdefault(source, f"r{len(self._reads)}")
        self._nest()

    def _nest(self) -> None:
        """Chooses the loops: fewer and longer ones, in the order of memory."""
        walks = [access.strides for access in self._reads]
        walks += [result.strides for _, result in self._results]
        dims = [dim for dim, n in enumerate(self.group.shape) if n != 1]
        dims.sort(key=lambda dim: -sum(walk[dim] for walk in walks))
        merged: list[list[int]] = []  # from the outermost
        for dim in dims:
            size = self.group.shape[dim]
            if merged and all(
                walk[merged[-1][-1]] == walk[dim] * size for walk in walks
            ):
                merged[-1].append(dim)
            else:
                merged.append([dim])
        sizes = [math.prod(self.group.shape[d] for d in m) for m in merged]
        order = list(range(len(merged)))
        if order and sizes[-1] < SHORT and max(sizes) >= 4 * sizes[-1]:
            order.append(order.pop(sizes.index(max(sizes))))
        self.sizes = tuple(sizes[place] for place in order) or (1,)
        self._lasts = [merged[place][-1] for place in order]

    def _strides(self, strides: Shape) -> Shape:
        """Returns strides over the nest, from strides over the shape."""
        return tuple(strides[dim] for dim in self._lasts) or (0,)

    def write(self) -> Iterator[str]:
        """Yields the lines of a block in C."""
        reductions = self._reductions()
        shared = self._shared()
        chunks = self._count_chunks(shared, reductions)
        yield "{"
        yield from self._declare()
        for place, reduction in enumerate(reductions):
            copies = chunks if reduction.strides[shared] == 0 else 1
            yield from declare_accumulators(place, reduction, copies)
        elements = math.prod(self.sizes)
        if chunks > 1 and elements >= LARGE:
            yield "#pragma omp parallel for schedule(static)"
        yield f"for (long c = 0; c < {chunks}; c++) {{"
        size = self.sizes[shared]
        yield f"const long low = {size}L * c / {chunks};"
        yield f"const long high = {size}L * (c + 1) / {chunks};"
        for place, reduction in enumerate(reductions):
            kind = C_TYPES[reduction.loop.dtype]
            step = reduction.count if reduction.strides[shared] == 0 else 0
            yield f"{kind} *restrict const a{place} = s{place} + {step} * c;"
        yield from self._loop_nest(shared, reductions)
        yield "}"
        for place, reduction in enumerate(reductions):
            copies = chunks if reduction.strides[shared] == 0 else 1
            yield from self._finish(place, reduction, copies)
        yield "}"

    def _reductions(self) -> list[Reduction]:
        found = []
        for loop, result in self._results:
            if loop.reduction is None:
                continue
            strides, count = [], 1
            reduced = [last in loop.dims for last in self._lasts] or [True]
            for place in reversed(range(len(self.sizes))):
                strides.append(0 if reduced[place] else count)
                count *= 1 if reduced[place] else self.sizes[place]
            found.append(Reduction(loop, result, tuple(strides[::-1]), count))
        return found

    def _shared(self) -> int:
        """Returns the loop that is cut into chunks: the outermost long one."""
        for place, size in enumerate(self.sizes):
            if size >= SHORT:
                return place
        return len(self.sizes) - 1

    def _count_chunks(self, shared: int, reductions: list[Reduction]) -> int:
        """Returns how many parts the shared loop is cut into."""
        elements, size = math.prod(self.sizes), self.sizes[shared]
        across = [r for r in reductions if r.strides[shared] == 0]
        if sum(r.count for r in across) * 4 > elements:
            return 1  # the accumulators would be most of the work
        threads = min(size, 8 if across else 16) if elements >= LARGE else 1
        if not across:
            return threads
        return max(threads, min(MOST_CHUNKS, -(-size // CHUNK)))

    def _declare(self) -> Iterator[str]:
        changed: dict[fx.Node, str] = {}
        for place, (loop, result) in enumerate(self._results):
            kind = C_TYPES.get(loop.dtype) or ROUNDED[loop.dtype]
            pointer = self.pointers.take(loop.owner, kind, result.offset)
            yield f"{kind} *restrict const w{place} = {pointer};"
            if loop.target is not None:
                changed[loop.target] = f"w{place}"
        for access, name in self._reads.items():
            kind = C_TYPES.get(access.dtype) or ROUNDED[access.dtype]
            if access.root in changed:  # at the same place
                yield f"const {kind} *const {name} = {changed[access.root]};"
                continue
            pointer = self.pointers.take(access.root, kind, access.offset)
            yield f"const {kind} *restrict const {name} = {pointer};"

    def _loop_nest(
        self, shared: int, reductions: list[Reduction]
    ) -> Iterator[str]:
        """Yields the loops; what is constant in one is computed before it."""
        last = len(self.sizes) - 1
        local = [p for p, r in enumerate(reductions) if r.strides[last] == 0]
        body = self._write_body(reductions, local)
        is_tiled = shared < last and self._is_transposed()
        yield from body[-1]
        for place, size in enumerate(self.sizes):
            low, high = ("low", "high") if place == shared else ("0", size)
            if is_tiled and place == last - 1:
                yield f"for (long s = 0; s < {self.sizes[-1]}; s += {TILE}) {{"
            if is_tiled and place == last:
                ends = f"s + {TILE} < {size} ? s + {TILE} : {size}"
                low, high = "s", f"({ends})"
            if place == last:
                yield from start_sums(reductions, local)
            i = f"i{place}"
            yield f"for (long {i} = {low}; {i} < {high}; {i}++) {{"
            yield from body[place]
        yield "}"
        for number in local:
            reduction = reductions[number]
            index = write_index(reduction.strides[:-1])
            combine = COMBINE[reduction.loop.reduction or ""]
            yield combine.format(f"a{number}[{index}]", f"l{number}")
        yield "}" * (last + is_tiled)

    def _is_transposed(self) -> bool:
        """Returns whether some tensor lies across the innermost loop.

        Each element is in another line of the cache then, of which the loop
        around it reads the next element: in tiles, while it is still there.
        """
        if math.prod(self.sizes) < LARGE:
            return False
        results = [result.strides for _, result in self._results]
        reads = [access.strides for access in self._reads]
        walks = [self._strides(walk)[-2:] for walk in (*reads, *results)]
        return any(0 < outer < LINE <= inner for outer, inner in walks)

    def _write_body(
        self, reductions: list[Reduction], local: list[int]
    ) -> dict[int, list[str]]:
        """Returns the lines that belong into each loop, and before all (-1)."""
        last = len(self.sizes) - 1
        lines: dict[int, list[str]] = {n: [] for n in range(-1, last + 1)}
        depths: dict[str, int] = {}
        for access, name in self._reads.items():
            walked = self._strides(access.strides)
            depth = max(
                (n for n, step in enumerate(walked) if step), default=-1
            )
            element = f"{name}[{write_index(walked)}]"
            kind = C_TYPES.get(access.dtype, "float")
            if access.dtype in ROUNDED:
                element = f"widen({element})"
            depths[f"v{name}"] = depth
            lines[depth].append(f"const {kind} v{name} = {element};")
        numbers = {id(r.result): place for place, r in enumerate(reductions)}
        writes = {id(r): place for place, (_, r) in enumerate(self._results)}
        for loop in self._loops:
            operands = [self._read(operand) for operand in loop.operands]
            depth = max(
                (depths.get(_name(operand), -1) for operand in operands),
                default=-1,
            )
            kinds = {operand.dtype for operand in loop.operands}
            letter = "f" if torch.float32 in kinds else ""
            for result in loop.results:
                text = result.expression.format(*operands, f=letter)
                if loop.reduction is not None:
                    place = numbers[id(result)]
                    lines[last] += add_to(reductions[place], place, local, text)
                    continue
                name = f"t{len(self._variables)}"
                self._variables[loop.node], depths[name] = name, depth
                lines[depth].append(declare_value(loop.dtype, name, text))
                if loop.owner in self.stored:
                    index = write_index(self._strides(result.strides))
                    if loop.dtype in ROUNDED:
                        name = f"round_even({name})"
                    write = writes[id(result)]
                    lines[last].append(f"w{write}[{index}] = {name};")
        return lines

    def _read(self, operand: Operand) -> str:
        """Returns an operand's value in the innermost loop."""
        source = operand.source
        if isinstance(source, str):
            return source
        name = self._variables.get(source.root)
        if source in self._reads:
            name = f"v{self._reads[source]}"
        if operand.dtype == torch.bool and source.dtype != torch.bool:
            return f"({name} != 0)"
        if source.dtype == operand.dtype:
            return str(name)
        return f"(({C_TYPES[operand.dtype]}){name})"

    def _finish(
        self, place: int, reduction: Reduction, copies: int
    ) -> Iterator[str]:
        """Combines the accumulators and writes the results."""
        loop, result = reduction.loop, reduction.result
        yield from combine_chunks(place, reduction, copies)
        write = next(p for p, (_, r) in enumerate(self._results) if r is result)
        walked, outer = self._strides(result.strides), reduction.strides
        for depth, size in enumerate(self.sizes):
            if outer[depth]:
                yield f"for (long i{depth} = 0; i{depth} < {size}; i{depth}++)"
        scale = math.prod(self.group.shape[dim] for dim in loop.dims)
        mean = f" / {scale}" if loop.reduction == "mean" else ""
        total = f"d{place}[{write_index(outer)}]{mean}"
        yield f"w{write}[{write_index(walked)}] = {total};"
        yield f"free(d{place});"


def _name(operand: str) -> str:
    """Returns the variable in an operand, which may be cast or compared."""
    found = re.search(r"\b(?:vr|t)\d+\b", operand)
    return found[0] if found else ""
