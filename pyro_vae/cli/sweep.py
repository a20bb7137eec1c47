"""Fits a grid of choices: a run for each point, and a table over the seeds."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from pyro_vae import figures
from pyro_vae.cli.compare import group, read_run, row
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.grid import Point, read_grid
from pyro_vae.cli.output import write_figure, write_table
from pyro_vae.config import Config
from pyro_vae.runs.files import FileError
from pyro_vae.runs.folder import FIGURES, holds_run
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.run import read_config
from pyro_vae.training import RESUMABLE
from pyro_vae.training.stopping import has_stalled

POINTS, REPORT, FIGURE = "points.csv", "report.csv", "report.png"


@dataclass(frozen=True)
class Flags:
    """The flags of the command. All others are those of fit.

    Each of fit's flags may have several values: --prior normal laplace
    --seed 0 1 2 makes six runs. One whose value is several words is given
    once for each value: --hidden 256 128 --hidden 512.

    Attributes:
        output: Folder for the runs and the report.
        jobs: Fits at a time, among which the cores are divided.
        index: Fit only the point of this number, counted from 0, as a job of
            an array does.
        report: Fit nothing, and report on what is there.
    """

    output: Path = Path("results/sweep")
    jobs: int = 1
    index: int | None = None
    report: bool = False


class Fits:
    """The processes that fit, which end with this one.

    Args:
        jobs: The number of fits at a time.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._running: list[subprocess.Popen] = []
        self._is_stopped = False

    def run(self, points: Sequence[Point]) -> Iterator[Point]:
        """Fits points, and yields each when its process has ended."""
        pool = ThreadPoolExecutor(self.jobs)
        try:
            futures = {pool.submit(self._fit, point): point for point in points}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            self._stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _fit(self, point: Point) -> None:
        """Runs a fit to its end; what it says goes to the point's log."""
        threads = str(max(1, joblib.cpu_count() // self.jobs))
        package = Path(__file__).parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "pyro_vae", "fit", *make_words(point)]
        if self._is_stopped:
            return
        with point.log.open("w") as log:
            print("pyro-vae", shlex.join(command[3:]), file=log, flush=True)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "OMP_NUM_THREADS": threads,
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                },
            )
            self._running.append(process)
            status = process.wait()
            if status < 0 and not self._is_stopped:
                name = signal.Signals(-status).name
                print(f"error: the fit was ended by {name}", file=log)

    def _stop(self) -> None:
        """Has every fit save after its step, and end."""
        self._is_stopped = True
        for process in self._running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)


def main(command: CommandLine[Flags]) -> int:
    """Fits what is left to do, and reports; returns 1 if a point failed.

    Raises:
        KeyboardInterrupt: If a signal stopped it; it says how to go on.
    """
    if {"-h", "--help"} & set(command.words):
        command.parse()
    flags, words = command.parse_known(Flags)
    check_at_least_1(flags, "jobs")
    points = choose(read_grid(words, flags.output), flags.index)
    flags.output.mkdir(parents=True, exist_ok=True)
    if not flags.report:
        left = [point for point in points if find_state(point) != "complete"]
        print(f"{len(points)} points, {len(left)} of them left to fit")
        try:
            for point in Fits(flags.jobs).run(left):
                print(f"{point.name}: {describe(point)}", flush=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{flags.output} has what was fitted: give the same command to "
                "go on"
            ) from None
    if flags.index is None:
        report(points, flags.output)
    return int(any(find_error(point) for point in points))


def choose(points: list[Point], index: int | None) -> list[Point]:
    """Returns the points to fit: all, or the one of a number.

    Raises:
        ValueError: If there is no such point.
    """
    if index is None:
        return points
    if not 0 <= index < len(points):
        raise ValueError(
            f"--index is {index}; expected 0 to {len(points) - 1}, for the "
            f"grid has {len(points)} points"
        )
    return [points[index]]


def make_words(point: Point) -> list[str]:
    """Returns the words after `fit`: to begin, or to go on."""
    words = [*point.words, "--output", str(point.folder)]
    if not holds_run(point.folder):
        return words
    if "--preset" in words:  # which the run in the folder keeps
        place = words.index("--preset")
        del words[place : place + 2]
    return [*words, "--resume"]


def find_state(point: Point) -> str:
    """Returns `complete`, `after epoch 3 of 20`, or `not begun`."""
    try:
        config = read_config(point.folder)
        records = read_history(point.folder / HISTORY)
    except FileError:
        return "begun" if holds_run(point.folder) else "not begun"
    epochs, done = point.config.epochs or config.epochs, len(records) - 1
    patience = config.early_stopping
    if done < (epochs or 0) and not (
        patience is not None and has_stalled(records, patience, config.warmup)
    ):
        return f"after epoch {done} of {epochs}"
    is_drawn = "--no-figures" in point.words
    if not is_drawn and not (point.folder / FIGURES).is_dir():
        return "without figures"
    return "complete" if is_same(point.config, config) else "other choices"


def is_same(given: Config, kept: Config) -> bool:
    """Returns whether a run was made by a point's choices."""
    free = set(RESUMABLE)
    if given.dataset == "auto":
        free.add("dataset")  # the run has what it was
    names = {field.name for field in fields(Config)} - free
    return all(getattr(given, name) == getattr(kept, name) for name in names)


def find_error(point: Point) -> str:
    """Returns what the point's last fit said when it failed, or nothing."""
    if not point.log.exists():
        return ""
    lines = point.log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else ""


def describe(point: Point) -> str:
    """Returns how far a point has come, in words."""
    if error := find_error(point):
        return f"failed: {error}"
    if (state := find_state(point)) != "complete":
        return state
    last = read_history(point.folder / HISTORY)[-1]
    return f"test ELBO {last['test_elbo']:.2f} nats per image"


def report(points: Sequence[Point], folder: Path) -> None:
    """Writes and prints the state of each point, and a table over the seeds.

    The table is compare's, of the complete runs, with the standard error of
    the mean of the last test ELBOs.
    """
    states = pd.DataFrame(
        [
            {
                "point": point.name,
                "state": find_state(point),
                "error": find_error(point),
            }
            for point in points
        ]
    )
    write_table(states, folder / POINTS)
    complete = states["state"] == "complete"
    for _, one in states[~complete].iterrows():
        print(f"{one['point']}: {one['state']} {one['error']}".rstrip())
    chosen = [p for p, done in zip(points, complete, strict=True) if done]
    if not chosen:
        print("no run is complete yet: there is nothing to compare")
        return
    runs = [read_run(point.folder) for point in chosen]
    seconds = min(run.history["seconds"][-1] for run in runs)
    groups = group(runs)
    table = pd.DataFrame([row(*item, seconds) for item in groups.items()])
    degrees = (table["seeds"] - 1).replace(0, np.nan)
    place = table.columns.get_loc("test_elbo_std") + 1
    error = table["test_elbo_std"] / degrees**0.5
    table.insert(place, "test_elbo_standard_error", error)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    write_table(table, folder / REPORT)
    histories = {
        label: [run.history for run in of] for label, of in groups.items()
    }
    write_figure(figures.compare_histories(histories), folder / FIGURE)
