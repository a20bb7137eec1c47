"""The fits of a sweep: how far each is, and how several run at a time."""

import contextlib
import functools
import io
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib

from pyro_vae.cli import fit
from pyro_vae.cli.command import explain, show_warnings
from pyro_vae.cli.flags import CommandLine, RefusedError
from pyro_vae.cli.interrupt import Interrupt
from pyro_vae.cli.sweep_grid import Point
from pyro_vae.files import write_atomically
from pyro_vae.runs.files import FileError
from pyro_vae.runs.folder import FIGURES, holds_run
from pyro_vae.runs.history import HISTORY, Record, read_history
from pyro_vae.training import is_over

KILLED = (
    "its process was killed while it ran alone: perhaps there is not enough "
    "memory"
)
# What cleans up after processes that were killed, and need not say so.
TRACKERS = ("joblib.externals.loky.backend", "multiprocessing")
QUIET = [f"ignore:::{package}.resource_tracker" for package in TRACKERS]
WATCH = 0.5  # seconds between two looks at whether the sweep still runs


def make_command(
    point: Point, output: Path, interrupt: Interrupt | None = None
) -> CommandLine[fit.Flags]:
    """Returns the command line of a point's fit, which resumes what is there.

    Args:
        point: The point.
        output: The sweep's folder.
        interrupt: What a signal does to the fit.
    """
    folder, flags = output / point.name, dict(point.flags)
    is_resumed = holds_run(folder)
    if is_resumed:
        flags.pop("preset", None)  # the run has its choices
    words = Point(point.name, flags).list_words()
    return CommandLine(
        fit.Flags,
        fit.__doc__,
        [*words, *["--resume"] * is_resumed, "--output", str(folder)],
        "pyro-vae fit",
        interrupt or Interrupt(),
    )


def check(point: Point, output: Path) -> None:
    """Refuses a point that fit would refuse at once.

    Raises:
        ValueError: If its flags contradict each other, or the run in its
            folder.
        SystemExit: If a value is none of its flag's; tyro has said why.
    """
    command = make_command(point, output)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a preset is shown
            fit.read_flags(command)
    except FileError:
        pass  # the fit will say so, and the other points go on
    except (ValueError, RefusedError) as error:
        raise ValueError(f"{point.name}: {command.in_flags(error)}") from None


def read_records(point: Point, output: Path) -> list[Record]:
    """Returns the records of a point's run; none if it cannot be read."""
    with contextlib.suppress(FileError):
        return read_history(output / point.name / HISTORY)
    return []


def is_complete(point: Point, output: Path) -> bool:
    """Returns whether a point's run has nothing left to do, figures included.

    Raises:
        ValueError: If the run in its folder is of other flags.
    """
    records = read_records(point, output)
    if not records or not holds_run(output / point.name):
        return False
    with contextlib.redirect_stdout(io.StringIO()):
        flags, config = fit.read_flags(make_command(point, output))
    # The last of the figures, so that all of them are there.
    last = output / point.name / FIGURES / "elbo.png"
    return is_over(records, config) and (flags.no_figures or last.exists())


def error_path(point: Point, output: Path) -> Path:
    """Returns the file that a point's error is kept in."""
    return output / f"{point.name}.error.txt"


def log_path(point: Point, output: Path) -> Path:
    """Returns the file of what a point's fit prints."""
    return output / f"{point.name}.log"


def read_error(point: Point, output: Path) -> str | None:
    """Returns the sentence on why a point's last fit failed, if it did."""
    path = error_path(point, output)
    return path.read_text("utf-8").strip() if path.exists() else None


def keep_error(point: Point, output: Path, sentence: str) -> None:
    """Writes the sentence on why a point's fit failed."""
    content = f"{sentence}\n".encode("utf-8", "backslashreplace")
    write_atomically(error_path(point, output), content)


def fit_point(point: Point, output: Path, parent: int) -> Point:
    """Fits a point in a process of its own; its error goes into a file.

    Args:
        point: The point.
        output: The sweep's folder.
        parent: The sweep's process, with which this one ends.

    Returns:
        The point, which may have failed.
    """
    watch(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep ends this one
    error_path(point, output).unlink(missing_ok=True)
    with (
        open(
            log_path(point, output), "w", 1, "utf-8", "backslashreplace"
        ) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")  # also what an earlier point had
        command = make_command(point, output)
        show_warnings(command)
        try:
            fit.main(command)
        except Exception as error:
            keep_error(point, output, describe(error, command))
    return point


def describe(error: Exception, command: CommandLine[fit.Flags]) -> str:
    """Returns the sentence on an error; of a fault it shows the traceback."""
    try:
        sentence = explain(error, command)
    except Exception:
        traceback.print_exc()
        sentence = f"{type(error).__name__}: {error}"
    print(f"error: {sentence}")
    return " ".join(sentence.split())


@functools.cache
def watch(parent: int) -> None:
    """Ends this process soon after its parent, whatever it does then."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)  # every file is whole

    threading.Thread(target=wait, daemon=True).start()


def fit_all(
    points: Sequence[Point], output: Path, jobs: int
) -> Iterator[Point]:
    """Fits points in several processes, and yields each that has ended.

    Where a process is killed, the points under way begin again, alone, so that
    the one it was is found.

    Args:
        points: What is left to fit.
        output: The sweep's folder.
        jobs: The number of processes; they share the threads.
    """
    left = {point.name: point for point in points}
    begun: list[Point] = []
    try:
        for point in run_pool(list(left.values()), output, jobs, begun):
            del left[point.name]
            yield point
        return
    except BrokenProcessPool:
        suspects = [point for point in begun if point.name in left]
    for point in suspects:
        del left[point.name]
        try:
            yield from run_pool([point], output, 1, [])
        except BrokenProcessPool:
            keep_error(point, output, KILLED)
            yield point
    yield from fit_all(list(left.values()), output, jobs)


def run_pool(
    points: list[Point], output: Path, jobs: int, begun: list[Point]
) -> Iterator[Point]:
    """Fits points in processes, and lists those that have begun.

    Raises:
        BrokenProcessPool: If a process was killed.
    """

    def make_tasks() -> Iterator[object]:
        for point in points:
            begun.append(point)
            yield joblib.delayed(fit_point)(point, output, os.getpid())

    threads = None  # of the user's choice
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, joblib.cpu_count() // jobs)
    filters = os.environ.get("PYTHONWARNINGS", "").split(",")
    kept = [text for text in filters if text not in ("", *QUIET)]
    os.environ["PYTHONWARNINGS"] = ",".join([*kept, *QUIET])
    with joblib.parallel_config("loky", inner_max_num_threads=threads):
        # With one job joblib would have no process.
        pool = joblib.Parallel(
            max(2, jobs),
            return_as="generator_unordered",
            pre_dispatch=jobs,
            batch_size=1,
        )
        yield from pool(make_tasks())
