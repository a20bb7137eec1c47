"""Functions that loops in C compute, and torch."""

import pytest
import torch

from pyro_vae.svi.loops.compiler import CompilerError, find_compiler
from pyro_vae.svi.loops.fusion import fuse
from pyro_vae.svi.loops.segment import Segment
from tests.models import record_graph


def describe_lack():
    """Returns why there are no loops here; nothing where there are."""
    try:
        find_compiler()
    except CompilerError as error:
        return f"no loops here: {error}"
    return ""


needs_compiler = pytest.mark.skipif(
    bool(describe_lack()), reason=describe_lack()
)


def record(function, *inputs):
    return record_graph(lambda *tensors: [function(*tensors)], inputs)


def compute(function, *inputs):
    """Returns what the loops compute, and whether torch ran nothing."""
    fused = fuse(record(function, *inputs), inputs)
    (result,) = fused(*inputs)
    targets = {
        node.target for node in fused.graph.nodes if node.op == "call_function"
    }
    alone = all(
        isinstance(target, Segment) or target.__name__ == "getitem"
        for target in targets
    )
    return result, alone


def check(function, *inputs, alone=True):
    result, is_alone = compute(function, *inputs)
    expected = function(*inputs)
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    torch.testing.assert_close(
        result,
        expected,
        rtol=2e-6
        if torch.float32 in (expected.dtype, inputs[0].dtype)
        else 1e-13,
        atol=1e-300,
        equal_nan=True,
    )
    assert is_alone == alone
