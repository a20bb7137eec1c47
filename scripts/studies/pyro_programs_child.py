"""Runs one of Pyro's programs for pyro_programs.py, and records its steps.

Every SVI object takes its first few steps in earnest; later calls return the
last loss at once, so that long loops end quickly.
"""

import ast
import os
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI
from pyro_programs_data import StandIns
from torch import Tensor

from pyro_vae.svi import (
    CompilationError,
    CompiledSVI,
    DynamicPairError,
    NonFiniteLossError,
    graphs,
)
from pyro_vae.svi.estimator import make_recordable

SEED = 0
REFUSALS = (DynamicPairError, CompilationError, NonFiniteLossError)
EVALUATIONS = 3  # of each object that are taken in earnest

# A program says float32 in these ways, and pins the version of Pyro.
IN_FLOAT64 = (
    (r"\.float\(\)", ".double()"),
    (r"\b(torch|np)\.float(32)?\b(?!\()", r"\1.float64"),
    (r"\btorch\.FloatTensor\b", "torch.DoubleTensor"),
    (r"(?m)^(\s*)assert pyro\.__version__.*$", r"\1pass"),
)
# What only IPython understands; pylab is the one whose effect is needed.
FROM_IPYTHON = (
    (r"(?m)^%pylab.*$", "from matplotlib.pylab import *"),
    (r"(?m)^(\s*)[%!].*$", r"\1pass"),
)


class TimeUpError(BaseException):
    """The time of the child is up; programs do not catch it."""


class SkippedError(RuntimeError):
    """A part of a notebook that has nothing to do with SVI is left out."""


@dataclass
class Record:
    """What happened to one SVI object; its fields are saved.

    Attributes:
        losses: The loss of each step, and of the first evaluations.
        seconds: The duration of each step.
        compiled: Whether each step compiled.
        params: Pyro's parameters after the last step, unconstrained.
        kind: `refused` or `error`, if it did not go through.
        message: What the refusal or error said.
        remarks: What is worth saying of how the program uses the object.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    compiled: list[bool] = field(default_factory=list)
    params: dict[str, Tensor] = field(default_factory=dict)
    kind: str = ""
    message: str = ""
    remarks: list[str] = field(default_factory=list)


class WatchedSVI:
    """Stands in for `pyro.infer.SVI` in a program, and records its steps.

    Args:
        args: The arguments of `pyro.infer.SVI`.
        kwargs: The same, by name.
    """

    records: list[Record] = []  # noqa: RUF012
    num_steps = 12
    engine = "eager"

    def __init__(self, *args: Any, **kwargs: Any):
        self.record = Record()
        self.records.append(self.record)
        self._last, self._evaluations = 0.0, 0
        args, kwargs = self._without_jit(args, kwargs)
        self._pyro = SVI(*args, **kwargs)
        self._svi: Any = self._pyro
        if self.engine == "eager":
            return
        if kwargs.pop("num_samples", None):
            self.record.remarks.append("num_samples is left out")
        try:
            self._svi = CompiledSVI(*args, **kwargs)
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
        if not hasattr(CompiledSVI, name):
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
    if isinstance(error, DynamicPairError | SkippedError):
        return line
    return f"{type(error).__name__}: {line}"


@dataclass(frozen=True)
class Job:
    """What the parent asks for.

    Attributes:
        path: The program, a script or a notebook.
        root: The folder of the checkout that it lies in.
        arguments: Words after the program.
        smoke: Whether the program is told that it is tested.
        engine: `eager`, `recorded` or `compiled`.
        steps: The steps that each SVI object takes.
        seconds: The time that the program may take.
        output: The file for the records.
    """

    path: str
    root: str
    arguments: tuple[str, ...]
    smoke: bool
    engine: str
    steps: int
    seconds: int
    output: str


def main(job: Job) -> None:
    """Runs a program and saves what its SVI objects did."""
    outcome: dict[str, Any] = {"error": "", "remarks": []}
    with tempfile.TemporaryDirectory() as folder:
        program = copy_in_float64(Path(job.root), job.path, Path(folder))
        os.chdir(program.parent)
        stand_ins = StandIns(Path(folder))
        prepare(job, stand_ins)
        try:
            with time_limit(job.seconds):
                if program.suffix == ".ipynb":
                    outcome["remarks"] += run_notebook(program)
                else:
                    run_script(program, job.arguments)
        except SystemExit:
            pass
        except BaseException as error:
            traceback.print_exc()
            outcome["error"] = describe(error)
        os.chdir(job.root)
    outcome["remarks"] += stand_ins.used
    outcome["objects"] = [asdict(record) for record in WatchedSVI.records]
    torch.save(outcome, job.output)


def copy_in_float64(root: Path, path: str, folder: Path) -> Path:
    """Copies the folder of a program, its texts rewritten; returns the copy."""
    top = Path(path).parts[0]
    shutil.copytree(root / top, folder / top)
    program = folder / path
    for source in program.parent.rglob("*.py"):
        source.write_text(rewrite(source.read_text(), IN_FLOAT64))
    return program


def rewrite(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Returns a text with all patterns replaced."""
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def prepare(job: Job, stand_ins: StandIns) -> None:
    """Sets the process up: float64, a seed, stand-ins, and the watched SVI."""
    warnings.simplefilter("ignore")
    os.environ["MPLBACKEND"] = "Agg"
    if job.smoke:
        os.environ["CI"] = "1"
    torch.set_default_dtype(torch.float64)
    if job.engine == "recorded":
        graphs.compile_by_inductor = lambda graph, _: graph
    WatchedSVI.engine, WatchedSVI.num_steps = job.engine, job.steps
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "pyro" and vars(module).get("SVI") is SVI:
            module.SVI = WatchedSVI  # type: ignore[attr-defined]
    stand_ins.put()
    random.seed(SEED)
    np.random.seed(SEED)
    pyro.set_rng_seed(SEED)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeUpError in a block that takes longer."""

    def stop(*_: Any) -> None:
        raise TimeUpError(f"{seconds} s are over")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def run_script(program: Path, arguments: tuple[str, ...]) -> None:
    """Runs a script as Python does."""
    sys.path.insert(0, str(program.parent))
    sys.argv = [str(program), *arguments]
    runpy.run_path(str(program), run_name="__main__")


def run_notebook(program: Path) -> list[str]:
    """Runs a notebook's cells, and returns remarks on those that failed."""
    import json

    import pyro.infer.mcmc as mcmc

    mcmc.MCMC.run = _skip
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    main_module.__dict__["display"] = lambda *_: None
    cells = json.loads(program.read_text())["cells"]
    failed = []
    for index, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        text = rewrite("".join(cell["source"]), FROM_IPYTHON + IN_FLOAT64)
        file = program.parent / f"cell_{index}.py"
        file.write_text(text)
        try:
            exec(compile(text, str(file), "exec"), main_module.__dict__)
        except Exception as error:
            if not isinstance(error, SkippedError):
                traceback.print_exc()
                failed.append(f"cell {index} failed ({describe(error)})")
    return failed


def _skip(*_: Any, **__: Any) -> None:
    raise SkippedError("MCMC is left out")


if __name__ == "__main__":
    main(Job(**ast.literal_eval(sys.argv[1])))
