"""Python that runs Pyro programs, as one compiled graph of tensor operations.

A function is run once on real tensors, and what reaches ATen is recorded:
through Pyro's handlers, the distributions and autograd's backward pass, so that
there is no second set of formulas. The record is compiled, to loops in C or by
Inductor.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from pyro_vae.svi.backend import compile_record
from pyro_vae.svi.checks import Checks, split_checks
from pyro_vae.svi.compat import without_checkpoints
from pyro_vae.svi.compat_pyro import unchecked_sites, within_expectations
from pyro_vae.svi.factorizations import Factorizations, split_factorizations
from pyro_vae.svi.matmul import choose_matmuls
from pyro_vae.svi.noise import keep_draws
from pyro_vae.svi.operator_reads import PACKING, OperatorReads
from pyro_vae.svi.random_states import keep_random_states
from pyro_vae.svi.record import Record, is_strided, record
from pyro_vae.svi.refusals import (
    CompilationError,
    DynamicPairError,
    explain,
    first_line,
    refuse_dynamic,
)
from pyro_vae.svi.values import Recording, refusing_keys
from pyro_vae.svi.watch import copy_buffers


class Program:
    """A recorded graph, called as the function that it was recorded from.

    Args:
        record: The graph; it takes the constants after the inputs.
        constants: Tensors that the function has found elsewhere.
        checks: Compares what Python has read, before the graph runs.
        factorizations: Looks at the factorizations, after it has.
        has_flag: Whether the last result tells if all is true that Python has
            relied upon.
        patience: The number of calls that Python runs it for, operation by
            operation, before it is compiled.

    Attributes:
        has_flag: See there.
        is_valid: Whether, at the last call, all was true that Python relied
            upon in distributions' validation and in assertions.
    """

    def __init__(
        self,
        record: fx.GraphModule,
        constants: Sequence[Tensor],
        checks: Checks,
        factorizations: Factorizations,
        has_flag: bool,
        patience: int,
    ):
        self._record, self._constants = record, constants
        self._checks, self._factorizations = checks, factorizations
        self.has_flag, self.is_valid = has_flag, True
        self._patience = patience
        self._lock = threading.Lock()  # it works in memory of its own
        self._run: Callable[..., Sequence[Tensor]] = record

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        self.check(tensors)
        return self.run(tensors)

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Raises DynamicPairError if Python would read other values."""
        self._checks([*tensors, *self._constants])

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Runs the graph where `fits` has said that it may."""
        inputs = [*tensors, *self._constants]
        if self._patience > 0:
            self._patience -= 1
            if self._patience == 0:
                self._compile_late(tensors)
        with self._lock:
            results = self._factorizations.look(self._run(*inputs))
        if self.has_flag:
            self.is_valid = bool(results.pop())
        return results

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Returns whether Python would read the same values as before."""
        return self._checks.find([*tensors, *self._constants]) is None

    @property
    def has_checks(self) -> bool:
        """Whether Python has read a value that is not constant."""
        return self._checks.has_any

    def compile(self, tensors: Sequence[Tensor]) -> None:
        """Compiles the graph for such tensors.

        A graph with a packed sequence, whose shape depends on lengths, or
        with a sparse tensor stays as it was recorded.

        Raises:
            CompilationError: If the compilers fail.
        """
        nodes = self._record.graph.nodes
        if not all(n.target is not PACKING and is_strided(n) for n in nodes):
            return
        _keep_freed_memory()
        inputs = [*tensors, *self._constants]
        try:
            run = compile_record(self._record, inputs)
        except Exception as error:  # Inductor raises many kinds
            raise CompilationError(
                f"the step could not be compiled here ({first_line(error)}); "
                "expected a C++ compiler, and a program that Inductor takes: "
                "use pyro.infer.SVI"
            ) from error
        # A module's call looks for hooks, which there are none of.
        self._run = run.forward if isinstance(run, nn.Module) else run

    def _compile_late(self, tensors: Sequence[Tensor]) -> None:
        try:
            self.compile(tensors)
        except CompilationError as error:
            warnings.warn(f"{error}; the steps stay as they are", stacklevel=2)


def compile_graph(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    precision: str = "highest",
    modules: Sequence[nn.Module] = (),
    patience: int = 0,
) -> Program:
    """Records a function of tensors and compiles the record.

    Random numbers come from torch's global generators, in the same order as
    when the function itself runs. Tensors that it reads beside its inputs are
    read anew at each call, and may be changed in place; the recording leaves
    them, and all random states, as they were.

    A value that is no tensor stays what it was, which is for the caller to see
    to. Where Python reads a tensor's value, the program compares it.

    Args:
        function: Takes tensors and returns a list of tensors. It may call
            `backward`; what it writes to `.grad` must be in its result.
        inputs: Example inputs, recognized wherever the function reads them.
        precision: The precision of float32 matrix products: `highest`, `high`
            or `medium`, as `CompiledSVI` has it.
        modules: The modules whose buffers the function may change in place
            (running statistics, say); the recording puts them back.
        patience: The number of calls before the record is compiled.

    Returns:
        What takes tensors like `inputs`, and may return the same ones again.

    Raises:
        DynamicPairError: If Python reads a value that depends on a parameter
            or on chance; by the program, if a value that it has read changed.
        CompilationError: If the compilers fail.
    """
    graph, constants, recording = _record(function, inputs, modules)
    checks = split_checks(graph, recording.reads, [*inputs, *constants])
    has_flag = bool(recording.list_flags())
    looks = checks, split_factorizations(graph), has_flag
    keep_draws(graph)
    choose_matmuls(graph, precision)
    program = Program(graph, constants, *looks, patience)
    if patience == 0:
        program.compile(inputs)
    return program


def _record(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    modules: Sequence[nn.Module],
) -> tuple[fx.GraphModule, list[Tensor], Recording]:
    """Records a function; tensors it finds elsewhere become last inputs.

    Returns:
        The record, those tensors, and what Python has asked for: a flag, if
        there is any, and the tensors that were read are the last results.
    """
    recording = Recording()
    try:
        recorded = _record_with(recording, function, inputs, modules)
    except DynamicPairError:
        raise
    except Exception:  # a tensor was no number, to `round`, say
        recording = Recording(numbers=True)
        try:
            recorded = _record_with(recording, function, inputs, modules)
        except Exception as error:
            raise explain(error) from error
    refuse_dynamic(recorded.graph)
    graph = fx.GraphModule({}, recorded.graph)
    return graph, recorded.constants, recording


def _record_with(
    recording: Recording,
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    modules: Sequence[nn.Module],
) -> Record:
    """Records a function, and puts back what its run changes in buffers."""
    buffers = copy_buffers(modules)

    def run(*tensors: Tensor) -> list[Tensor]:
        with OperatorReads(recording):
            results = function(*tensors)
            recording.note_masks(results)
        reads = [read.tensor for read in recording.reads]
        return [*results, *recording.list_flags(), *reads]

    try:
        with (
            unchecked_sites(),
            within_expectations(_MaskedSums),
            without_checkpoints(),
            keep_random_states(inputs),
            refusing_keys(),
            recording,
        ):
            return record(run, inputs)
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)


class _MaskedSums(TorchFunctionMode):
    """Keeps the shapes of Pyro's sum over enumerated states static.

    Pyro drops the states of zero probability from a sum of products; to put
    zeros in their place is the same sum.
    """

    def __torch_function__(
        self,
        function: Callable,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is Tensor.all:
            return False
        if function is Tensor.masked_select:
            values, mask = args
            return torch.where(mask, values, torch.zeros_like(values))
        return function(*args, **(kwargs or {}))


def _keep_freed_memory() -> None:
    """Stops glibc from giving a step's buffers back after every step.

    To free a block under 32 MiB teaches glibc's malloc to keep twice as much
    instead of returning it to the system and faulting it in again; a no-op
    where there is another allocator.
    """
    torch.empty(31 << 20, dtype=torch.uint8, device="cpu")
