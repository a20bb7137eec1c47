"""What stands in for `pyro.infer.SVI` in a program, and records its steps."""

import random
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyro
import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi import (
    CompilationError,
    CompiledSVI,
    DynamicPairError,
    NonFiniteLossError,
)
from pyro_vae.svi.estimator import make_recordable

REFUSALS = (DynamicPairError, CompilationError, NonFiniteLossError)
EAGER = ("eager", "moved")
EVALUATIONS = 3  # of each object that are taken in earnest


@dataclass
class Record:
    """What happened to one SVI object; its fields are saved.

    Attributes:
        losses: The loss of each step, and of the first evaluations.
        seconds: The duration of each step.
        compiled: Whether each step compiled.
        params: Pyro's parameters after the last step, unconstrained.
        gradients: The largest entry of each parameter's gradients, if eager.
        kind: `refused` or `error`, if it did not go through.
        message: What the refusal or error said.
        remarks: What is worth saying of how the program uses the object.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    compiled: list[bool] = field(default_factory=list)
    params: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    kind: str = ""
    message: str = ""
    remarks: list[str] = field(default_factory=list)


class NotedGradients:
    """Stands in for an eager SVI's optimizer, and notes the gradients.

    Args:
        optim: The optimizer.
        record: Takes the largest entries.
        moves: Whether each entry is moved up or down by a rounding of the
            largest one, which is as exact as sums of such entries are.
    """

    def __init__(self, optim: PyroOptim, record: Record, moves: bool):
        self._optim, self._record, self._moves = optim, record, moves
        self._generator = np.random.default_rng(0)

    def __call__(self, params: Iterable[Tensor]) -> None:
        params = list(params)
        named = pyro.get_param_store().named_parameters()
        names = {id(param): name for name, param in named}
        largest = self._record.gradients
        for param in params:
            if param.grad is not None and param.numel() and id(param) in names:
                name = names[id(param)]
                entry = param.grad.abs().max().item()
                largest[name] = max(entry, largest.get(name, 0.0))
                if self._moves:
                    self._move(param.grad, entry)
        self._optim(params)

    def _move(self, grad: Tensor, largest: float) -> None:
        signs = self._generator.choice([-1, 1], size=tuple(grad.shape))
        rounding = torch.finfo(grad.dtype).eps * largest
        grad += torch.from_numpy(np.asarray(signs)) * rounding


class WatchedSVI:
    """Stands in for `pyro.infer.SVI` in a program, and records its steps.

    Args:
        args: The arguments of `pyro.infer.SVI`.
        kwargs: The same, by name.
    """

    records: ClassVar[list[Record]] = []
    num_steps = 12
    engine = "eager"

    def __init__(self, *args: Any, **kwargs: Any):
        self.record = Record()
        self.records.append(self.record)
        self._last, self._evaluations = 0.0, 0
        args, kwargs = self._without_jit(args, kwargs)
        self._pyro = SVI(*args, **kwargs)
        self._svi: Any = self._pyro
        if self.engine in EAGER:
            moves = self.engine == "moved"
            optim = NotedGradients(self._pyro.optim, self.record, moves)
            self._pyro.optim = optim
            return
        try:
            engine = {"recorded": "auto"}.get(self.engine, self.engine)
            self._svi = CompiledSVI(*args, **kwargs, engine=engine)
        except Exception as error:
            self._note(error)

    def _without_jit(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Takes a `Jit` estimator as its parent, which draws less often."""
        kwargs |= dict(zip(("loss", "loss_and_grads"), args[3:], strict=False))
        args = args[:3]
        loss = make_recordable(kwargs["loss"])
        if loss is not kwargs["loss"]:
            self.record.remarks.append("the eager run is without Jit")
        return args, {**kwargs, "loss": loss}

    def __getattr__(self, name: str) -> Any:
        if hasattr(self._svi, name):
            return getattr(self._svi, name)
        self.record.remarks.append(f"svi.{name} is Pyro's")
        return getattr(self._pyro, name)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Takes a step, if it is one of the first, and returns the loss."""
        record = self.record
        if len(record.seconds) >= self.num_steps:
            return self._last
        before = getattr(self._svi, "num_compilations", 0)
        start = time.perf_counter()
        self._last = self._call("step", args, kwargs)
        record.seconds.append(time.perf_counter() - start)
        after = getattr(self._svi, "num_compilations", before)
        record.compiled.append(after > before)
        record.losses += _listed(self._last)
        named = pyro.get_param_store().named_parameters()
        record.params = {n: p.detach().clone() for n, p in named}
        return self._last

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the loss, if it is one of the first evaluations."""
        self._evaluations += 1
        if self._evaluations <= EVALUATIONS:
            self._last = self._call("evaluate_loss", args, kwargs)
            self.record.losses += _listed(self._last)
        return self._last

    def _call(self, method: str, args: tuple, kwargs: dict) -> Any:
        """Calls the engine; if it fails, notes why and goes on with Pyro's."""
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        try:
            return getattr(self._svi, method)(*args, **kwargs)
        except Exception as error:
            if self._svi is self._pyro:
                raise
            self._note(error)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        self._svi = self._pyro
        return getattr(self._svi, method)(*args, **kwargs)

    def _note(self, error: Exception) -> None:
        """Notes a refusal, or an error that is none."""
        at = f"step {len(self.record.seconds) + 1}"
        trace = "".join(traceback.format_exception(error))
        print(f"{at}:\n{trace}", file=sys.stderr)
        last = traceback.extract_tb(error.__traceback__)[-1]
        is_ours = isinstance(error, ValueError) and "pyro_vae" in last.filename
        refused = isinstance(error, REFUSALS) or is_ours
        self.record.kind = "refused" if refused else "error"
        self.record.message = f"{describe(error)} ({at})"


def _listed(loss: Any) -> list[float]:
    return [float(v) for v in (loss if isinstance(loss, tuple) else (loss,))]


def describe(error: BaseException) -> str:
    """Returns the first line of an error, with its type unless it refuses."""
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, DynamicPairError):
        return line
    return f"{type(error).__name__}: {line}"
