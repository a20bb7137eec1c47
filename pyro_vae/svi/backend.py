"""What compiles a recorded graph: loops in C where they can, else Inductor."""

from collections.abc import Callable, Sequence

from torch import Tensor, fx

from pyro_vae.svi.inductor import compile_by_inductor
from pyro_vae.svi.loops.compiler import CompilerError
from pyro_vae.svi.loops.fusion import fuse
from pyro_vae.svi.loops.layout import UnsuitableError


def compile_record(
    graph: fx.GraphModule, inputs: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """Compiles a record for inputs of these shapes.

    Loops are compiled by gcc in a second or less, Inductor's kernels in ten;
    the former are for the CPU, on Linux, and for a graph of ATen's operators.

    Raises:
        Exception: Of many kinds, from Inductor.
    """
    try:
        return fuse(graph, inputs)
    except (UnsuitableError, CompilerError, OSError):
        return compile_by_inductor(graph, inputs)
