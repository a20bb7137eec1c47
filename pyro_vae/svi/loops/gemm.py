"""Products of matrices, by the library of linear algebra that torch has.

torch's wheels for Linux carry one, whose functions can be found by name. Called
from C, a product is one more step between loops; called from Python, it would
end one function in C and begin another.
"""

import ctypes
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx

from pyro_vae.svi.loops.layout import Access, Layout
from pyro_vae.svi.loops.pointers import Pointers

NAMES = {torch.float32: "sgemm", torch.float64: "dgemm"}
SHARED = 1 << 16  # multiplications of a batch that several threads share


@dataclass(frozen=True)
class Gemm:
    """A product of matrices, or one for each of a batch.

    Attributes:
        node: The product's node.
        sizes: The number of products; rows, sums and columns of each.
        left: How to walk through the left matrices, batch first.
        right: How to walk through the right ones.
        dtype: Of all of them.
    """

    node: fx.Node
    sizes: tuple[int, int, int, int]
    left: Access
    right: Access
    dtype: torch.dtype

    def list_used(self) -> Iterator[fx.Node]:
        """Yields the owners of the storages that it reads."""
        yield from (self.left.root, self.right.root)

    def write(self, pointers: Pointers) -> Iterator[str]:
        """Yields a block in C.

        The library's matrices lie in columns: it gets the transposed product.
        """
        count, rows, sums, columns = self.sizes
        kind = "float" if self.dtype == torch.float32 else "double"
        (left, left_step), (right, right_step) = (
            _find_order(access, shape)
            for access, shape in (
                (self.left, (rows, sums)),
                (self.right, (sums, columns)),
            )
        )
        a = pointers.take(self.left.root, kind, self.left.offset)
        b = pointers.take(self.right.root, kind, self.right.offset)
        c = pointers.take(self.node, kind, 0)
        yield "{"
        yield f"const long n = {rows}, k = {sums}, m = {columns};"
        yield f"const long lda = {left_step}, ldb = {right_step};"
        yield f"const {kind} one = 1, zero = 0;"
        if count > 1 and count * rows * sums * columns >= SHARED:
            yield "#pragma omp parallel for schedule(static)"
        yield f"for (long i = 0; i < {count}; i++)"
        yield f'{NAMES[self.dtype]}("{right}", "{left}", &m, &n, &k, &one,'
        yield f"{b} + {self.right.strides[0]}L * i, &ldb,"
        yield f"{a} + {self.left.strides[0]}L * i, &lda, &zero,"
        yield f"{c} + {rows * columns}L * i, &m);"
        yield "}"


def make_gemm(node: fx.Node, layout: Layout) -> Gemm | None:
    """Returns a node's product, or None if torch is to run the node."""
    if str(node.target) not in ("aten.mm.default", "aten.bmm.default"):
        return None
    if node.kwargs or find_gemm() is None:
        return None
    value = layout.values[node]
    given = cast(list[fx.Node], list(node.args))
    operands = [layout.values[each] for each in given]
    if value.dtype not in NAMES or not value.is_contiguous():
        return None
    if 0 in (value.numel(), operands[0].numel()):
        return None
    if not all(map(layout.is_plain, node.all_input_nodes)):
        return None
    left, right = (
        layout.access(each, (1,) * (3 - each_value.dim()) + each_value.shape)
        for each, each_value in zip(given, operands, strict=True)
    )
    count = value.shape[0] if value.dim() == 3 else 1
    rows, columns = value.shape[-2:]
    sums = operands[0].shape[-1]
    if not _find_order(left, (rows, sums))[0]:
        return None
    if not _find_order(right, (sums, columns))[0]:
        return None
    return Gemm(node, (count, rows, sums, columns), left, right, value.dtype)


def _find_order(access: Access, shape: tuple[int, int]) -> tuple[str, int]:
    """Returns whether a matrix lies in rows (N) or columns (T), and its step.

    The letter is empty if it lies in neither.
    """
    (down, across), (rows, columns) = access.strides[-2:], shape
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return "N", max(down, columns)
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):
        return "T", max(across, rows)
    return "", 0


def write_pointers() -> Iterator[str]:
    """Yields the declarations of the library's functions.

    Their sizes are of 32 or 64 bits; by address, either finds its part.
    """
    taken = "const long *"
    for name, kind in (("sgemm", "float"), ("dgemm", "double")):
        matrix = f"const {kind} *"
        types = ["const char *"] * 2 + [taken] * 3 + [matrix]
        types += [matrix, taken] * 2 + [matrix, f"{kind} *", taken]
        yield f"static void (*{name})({', '.join(types)});"
    yield "void set_gemm(void *single, void *twice)"
    yield "{ sgemm = single; dgemm = twice; }"


def set_pointers(library: ctypes.CDLL) -> None:
    """Tells a library where the functions are."""
    found = find_gemm()
    if found is not None:
        set_gemm: Any = library.set_gemm
        set_gemm.argtypes = [ctypes.c_void_p] * 2
        set_gemm.restype = None
        set_gemm(*found)


@functools.cache
def find_gemm() -> tuple[int, int] | None:
    """Returns the addresses of `sgemm` and `dgemm`, or None.

    None, too, if they do not multiply as torch does.
    """
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(path))
        functions = [getattr(library, f"{name}_") for name in NAMES.values()]
    except (OSError, AttributeError):
        return None
    for function, dtype in zip(functions, NAMES, strict=True):
        left = torch.arange(6.0, dtype=dtype, device="cpu").reshape(2, 3)
        if not torch.equal(_multiply(function, left, left.T), left @ left.T):
            return None
    single, twice = (
        ctypes.cast(function, ctypes.c_void_p).value for function in functions
    )
    return None if single is None or twice is None else (single, twice)


def _multiply(function: Any, left: Tensor, right: Tensor) -> Tensor:
    """Multiplies a matrix in rows and one in columns."""
    (rows, sums), columns = left.shape, right.shape[1]
    result = left.new_empty(rows, columns)
    kind = ctypes.c_float if left.dtype == torch.float32 else ctypes.c_double
    n, k, m = map(ctypes.c_long, (rows, sums, columns))
    addresses = [t.data_ptr() for t in (right, left, result)]
    b, a, c = map(ctypes.c_void_p, addresses)
    by, one, zero = ctypes.byref, kind(1), kind(0)
    function.restype = None
    function(
        *(b"T", b"N", by(m), by(n), by(k), by(one), b, by(k)),
        *(a, by(k), by(zero), c, by(m)),
    )
    return result
