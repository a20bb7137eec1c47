"""Runs one of Pyro's programs for pyro_programs.py, in a process of its own."""

import ast
import json
import os
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, SVI
from pyro_programs_data import StandIns
from pyro_programs_watch import WatchedSVI, describe

SEED = 0

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


@dataclass(frozen=True)
class Job:
    """What the parent asks for.

    Attributes:
        path: The program, a script or a notebook.
        root: The folder of the checkout that it lies in.
        arguments: Words after the program.
        smoke: Whether the program is told that it is tested.
        engine: `eager`, `recorded`, `compiled`, or `moved`: eager, with
            gradients that are moved by a rounding of their largest entry.
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
    outcome: dict[str, Any] = {"error": "", "failed": {}}
    with tempfile.TemporaryDirectory() as folder:
        program = copy_in_float64(Path(job.root), job.path, Path(folder))
        os.chdir(program.parent)
        stand_ins = StandIns(Path(folder))
        prepare(job, stand_ins)
        try:
            with time_limit(job.seconds):
                if program.suffix == ".ipynb":
                    run_notebook(program, outcome["failed"])
                else:
                    run_script(program, job.arguments)
        except SystemExit:
            pass
        except BaseException as error:
            traceback.print_exc()
            outcome["error"] = describe(error)
        os.chdir(job.root)
    outcome["remarks"] = stand_ins.used
    outcome["objects"] = [asdict(record) for record in WatchedSVI.records]
    torch.save(outcome, job.output)
    sys.stdout.flush()
    os._exit(0)  # torch takes seconds to clean up


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
    WatchedSVI.engine, WatchedSVI.num_steps = job.engine, job.steps
    replace("pyro", SVI, WatchedSVI)
    stand_ins.put()
    random.seed(SEED)
    np.random.seed(SEED)
    pyro.set_rng_seed(SEED)


def replace(package: str, thing: Any, other: Any) -> None:
    """Puts a thing in another's place in all modules of a package."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == package:
            for key, value in list(vars(module).items()):
                if value is thing:
                    setattr(module, key, other)


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


def run_notebook(program: Path, failed: dict[int, str]) -> None:
    """Runs a notebook's cells; one that fails does not end it.

    Args:
        program: The notebook.
        failed: Takes what the cells that failed said, by their indices.
    """
    MCMC.run = _skip
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    main_module.__dict__["display"] = lambda *_: None
    cells = json.loads(program.read_text())["cells"]
    for index, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        text = rewrite("".join(cell["source"]), FROM_IPYTHON + IN_FLOAT64)
        file = program.parent / f"cell_{index}.py"  # for the errors' lines
        file.write_text(text)
        try:
            exec(compile(text, str(file), "exec"), main_module.__dict__)
        except Exception as error:
            traceback.print_exc()
            failed[index] = describe(error)


def _skip(*_: Any, **__: Any) -> None:
    raise SkippedError("MCMC is left out")


if __name__ == "__main__":
    main(Job(**ast.literal_eval(sys.argv[1])))
