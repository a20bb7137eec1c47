"""Python that runs Pyro programs, as one compiled graph of tensor operations.

A function is run once on real tensors while `make_fx` records what reaches
ATen: through Pyro's handlers, the distributions and autograd's backward pass,
so that there is no second set of formulas. Inductor compiles the record.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pyro
import torch
from pyro.infer.util import Dice
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pyro_vae.svi.matmul import choose_matmuls
from pyro_vae.svi.noise import keep_draws

Program = Callable[..., Sequence[Tensor]]


class DynamicPairError(ValueError):
    """A pair's structure depends on values or on chance."""


class CompilationError(OSError):
    """A graph could not be compiled on this machine."""


def compile(
    function: Callable[..., list[Tensor]],
    inputs: Sequence[Tensor],
    precision: str = "highest",
    modules: Sequence[nn.Module] = (),
) -> Program:
    """Records a function of tensors and compiles the record.

    Random numbers come from torch's global generators, in the same order as
    when the function itself runs. Tensors that the function reads beside its
    inputs (buffers, say) are read anew at each call, and may be changed in
    place; the recording leaves them, and all random states, as they were.

    Args:
        function: Takes tensors and returns a list of tensors. It may call
            `backward`; what it writes to `.grad` must be in its result.
        inputs: Example inputs. A parameter among them is recognised wherever
            the function reads it.
        precision: Of float32 matrix products, see `choose_matmuls`.
        modules: Those whose buffers the function may change in place (running
            statistics, say); the recording puts them back.

    Returns:
        A callable that takes tensors like `inputs`.

    Raises:
        DynamicPairError: If the function branches on a tensor's value, or two
            recordings of it differ.
        CompilationError: If Inductor or its C++ compiler fails.
    """
    graph, constants = _record(function, inputs, modules)
    again, others = _record(function, inputs, modules)
    if (
        graph.code != again.code
        or len(constants) != len(others)
        or not all(map(_same, constants, others))
    ):
        raise DynamicPairError(
            "the model or guide did something else when it was run a second "
            "time; expected a static pair, with no Python or NumPy randomness "
            "and no changing state: use pyro.infer.SVI (--engine eager)"
        )
    keep_draws(graph)
    choose_matmuls(graph, precision)
    compiled = _compile(graph, [*inputs, *constants])
    return lambda *tensors: compiled(*tensors, *constants)


def _record(
    function: Callable[..., list[Tensor]],
    inputs: Sequence[Tensor],
    modules: Sequence[nn.Module],
) -> tuple[fx.GraphModule, list[Tensor]]:
    """Records a function; tensors it finds elsewhere become last inputs."""
    buffers = buffer_copies(modules)
    try:
        with _static_pyro(), _random_states_kept(inputs), _Recording():
            graph = make_fx(function)(*inputs)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DynamicPairError(
            f"the model or guide cannot be recorded ({reason}); expected a "
            "static pair: use pyro.infer.SVI (--engine eager)"
        ) from error
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
    return graph, _lift_constants(graph)


_FREEZING = {
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__array__,
}


class _Recording(TorchFunctionMode):
    """Refuses Python's view of a tensor's value, which would be frozen.

    `item` stays a tensor: Pyro's losses and a user's arithmetic go on with
    it, cut off from autograd as a number would be.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.item:
            return args[0].detach()
        if function in _FREEZING:
            raise DynamicPairError(
                f"the model or guide asks for a tensor's value in Python "
                f"(Tensor.{function.__name__}), so that its structure may "
                "depend on it; expected a static pair: use torch.where and "
                "the like, or pyro.infer.SVI (--engine eager)"
            )
        return function(*args, **(kwargs or {}))


def buffer_copies(modules: Sequence[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """The modules' buffers, each with a copy of its value."""
    return [
        (buffer, buffer.clone())
        for module in modules
        for buffer in module._buffers.values()
        if buffer is not None
    ]


class _MaskedSums(TorchFunctionMode):
    """Keeps the shapes of Pyro's sum over enumerated states static.

    Pyro drops the states of zero probability from a sum of products; to put
    zeros in their place is the same sum.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.all:
            return False
        if function is Tensor.masked_select:
            values, mask = args
            return torch.where(mask, values, torch.zeros_like(values))
        return function(*args, **(kwargs or {}))


@contextmanager
def _static_pyro() -> Iterator[None]:
    """Switches off the places where Pyro looks at values while it runs."""
    expectation = Dice.compute_expectation

    def compute_expectation(self, costs):
        with _MaskedSums():
            return expectation(self, costs)

    with (
        pyro.validation_enabled(False),
        mock.patch("pyro.util.torch_isnan", lambda value: False),
        mock.patch.object(Dice, "compute_expectation", compute_expectation),
    ):
        yield


@contextmanager
def _random_states_kept(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Puts torch's, Python's and NumPy's random states back afterwards.

    Python's and NumPy's draw from elsewhere meanwhile, so that two recordings
    of a pair that uses them differ.
    """
    devices = {tensor.device for tensor in inputs if tensor.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        random.seed()
        np.random.seed()
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _lift_constants(graph: fx.GraphModule) -> list[Tensor]:
    """Turns the tensors that a graph holds into inputs after the others."""
    constants: dict[str, tuple[fx.Node, Tensor]] = {}
    nodes = list(graph.graph.nodes)
    last = [node for node in nodes if node.op == "placeholder"][-1]
    for node in nodes:
        if node.op != "get_attr":
            continue
        if node.target not in constants:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(node.target)
            constants[node.target] = (last, getattr(graph, node.target))
        node.replace_all_uses_with(constants[node.target][0])
        graph.graph.erase_node(node)
    graph.recompile()
    return [tensor for _, tensor in constants.values()]


def _same(left: Tensor, right: Tensor) -> bool:
    """The same tensor, or one made anew with the same values."""
    return left is right or (
        left.shape == right.shape and torch.equal(left, right)
    )


def _compile(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Program:
    from torch import _inductor as inductor

    options = {
        "fallback_random": True,  # eager's random numbers
        "cpp.vec_isa_ok": True,  # the processor's word, without a trial build
        "triton.cudagraphs": any(tensor.is_cuda for tensor in inputs),
    }
    _keep_freed_memory()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Of one part of torch about another.
            warnings.simplefilter("ignore", FutureWarning)
            return inductor.compile(
                graph, [tensor.detach() for tensor in inputs], options
            )
    except Exception as error:  # Inductor raises many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CompilationError(
            f"the step could not be compiled here ({reason[0]}); expected a "
            "C++ compiler: use pyro.infer.SVI (--engine eager)"
        ) from error


def _keep_freed_memory() -> None:
    """Stops glibc from giving a step's buffers back after every step.

    To free a block under 32 MiB teaches glibc's malloc to keep twice as much
    instead of returning it to the system and faulting it in again; a no-op
    where there is another allocator.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
