"""Inductor and oneDNN: the private names of torch that compile and multiply.

As in svi/compat.py, each stands here with what is relied upon, and is checked
by tests/test_svi_compat.py.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pyro_vae.files import (
    find_code_folder,
    make_code_folder,
    one_at_a_time,
)

__all__ = [
    "compile_by_inductor",
    "describe_processor",
    "multiply_by_onednn",
]


def compile_by_inductor(
    graph: fx.GraphModule, inputs: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """Compiles a recorded graph for inputs of these shapes.

    It takes any record, and raises errors of many kinds. Of processes that
    want the same graph, one compiles it, and the others find it in the cache.
    """
    from torch import _inductor  # here: a second or two to import

    options = {
        "fallback_random": True,  # eager's random numbers
        "cpp.vec_isa_ok": True,  # the processor's word, without a trial build
        "triton.cudagraphs": any(tensor.is_cuda for tensor in inputs),
    }
    # Inductor looks into its cache on disk only where there is a ShapeEnv.
    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    with (
        torch.no_grad(),
        _compile_cache() as folder,
        one_at_a_time(folder / "waiting" / _name(graph, inputs)),
        warnings.catch_warnings(),
        tracing(TracingContext(mode)),
    ):
        # One part of torch warns about another.
        warnings.simplefilter("ignore", FutureWarning)
        return _inductor.compile(
            graph, [tensor.detach() for tensor in inputs], options
        )


def _name(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> str:
    """Returns a name that graphs share if they are the same."""
    shapes = [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs]
    return sha256(f"{graph.code}{shapes}".encode()).hexdigest()


@contextmanager
def _compile_cache() -> Iterator[Path]:
    """Has Inductor keep what it compiles, and runs, in a folder of the user's.

    Its own choice is not a safe one.
    """
    from torch._inductor import codecache

    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    folder = make_code_folder(find_code_folder())
    os.environ[name] = str(folder)
    # Its precompiled headers lie elsewhere, whatever the environment says.
    headers = folder / "precompiled_headers"
    named = {"_HEADER_DIR": headers, "_HEADER_LOCK_DIR": headers / "locks"}
    usual = {key: getattr(codecache, key, None) for key in named}
    for key in named.keys() & vars(codecache).keys():
        setattr(codecache, key, str(named[key]))
    try:
        yield folder
    finally:
        for key in named.keys() & vars(codecache).keys():
            setattr(codecache, key, usual[key])
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def multiply_by_onednn(left: Tensor, right: Tensor) -> Tensor:
    """Returns the float32 product of `(n, k)` and `(k, m)`, on the CPU.

    oneDNN's linear layer, without a bias or an activation.
    """
    return torch.ops.mkldnn._linear_pointwise(
        left, right.t(), None, "none", [], ""
    )


@functools.cache
def describe_processor() -> dict[str, Any]:
    """Returns what torch knows of the CPU; empty where oneDNN is missing.

    The entries `cpu_name`, `avx512_bf16` and `amx_bf16`, in those versions of
    torch that tell.
    """
    describe = getattr(torch.cpu, "get_capabilities", dict)
    return describe() if torch.backends.mkldnn.is_available() else {}
