"""Fits a grid: any flags of fit, each with one value or several.

Every point is a run of fit in a folder of its own; the same command again goes
on where it was stopped. --report alone writes the report of what there is.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from pyro_vae.cli import fit
from pyro_vae.cli.command import explain
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.outcome import describe_epoch
from pyro_vae.cli.sweep_fits import (
    check,
    error_path,
    fit_all,
    is_complete,
    keep_error,
    make_command,
    read_error,
    read_records,
)
from pyro_vae.cli.sweep_grid import (
    Point,
    check_same_sweep,
    keep_points,
    make_points,
    read_points,
)
from pyro_vae.cli.sweep_report import TABLE, show, write_report


@dataclass(frozen=True)
class Flags:
    """The sweep's own flags; all others are those of fit.

    Attributes:
        output: Folder for a folder of each point, report.csv and report.png.
        jobs: Fits at a time, each in a process; they share the threads.
        index: Fit this point alone, counted from 0, and report nothing, as the
            task of an array job does.
        report: Fit nothing, and report what there is; without a grid, of all
            points that the output folder is for.
    """

    output: Path = Path("results/sweep")
    jobs: int = 2
    index: int | None = None
    report: bool = False


def main(command: CommandLine[Flags]) -> int:
    """Fits what is left to do, and reports; returns 1 if a point failed.

    Raises:
        KeyboardInterrupt: If a signal stopped it; it says how to go on.
    """
    flags, words = read_flags(command)
    if flags.report and not words:
        points = read_points(flags.output)
    else:
        points = make_points(words)
        check_same_sweep(flags.output, points)
        for point in points:
            check(point, flags.output)
        keep_points(flags.output, points)
    if flags.index is not None:
        return fit_index(command, points, flags)
    try:
        if not flags.report:
            fit_rest(points, flags)
        return report(points, flags.output)
    except KeyboardInterrupt:
        again = f"{command.program} {shlex.join(command.words)}"
        raise KeyboardInterrupt(
            f"{flags.output} holds what is done. To go on: {again}"
        ) from None


def read_flags(command: CommandLine[Flags]) -> tuple[Flags, list[str]]:
    """Reads the sweep's own flags; returns them and the words of the grid.

    Raises:
        ValueError: If --jobs is below 1, or --index is given with --report.
    """
    if {"-h", "--help"} & set(command.words):
        command.parse()
    flags, words = command.parse_rest(Flags)
    check_at_least_1(flags, "jobs")
    if flags.report and flags.index is not None:
        raise ValueError("--report and --index were given; expected one")
    return flags, words


def fit_rest(points: list[Point], flags: Flags) -> None:
    """Fits the points that are not complete, and says how each has ended."""
    output = flags.output
    left = [point for point in points if not is_complete(point, output)]
    done = len(points) - len(left)
    print(f"{len(points)} points, {done} complete; {flags.jobs} at a time")
    for point in fit_all(left, output, flags.jobs):
        done += 1
        error = read_error(point, output)
        outcome = f"failed: {error}"
        if error is None:
            outcome = describe_epoch(read_records(point, output)[-1])
        print(f"{done}/{len(points)}  {point.name}: {outcome}")


def report(points: list[Point], output: Path) -> int:
    """Writes and prints the report; returns 1 if a point has failed."""
    table = write_report(points, output)
    print(show(table))
    print(f"the report is in {output / TABLE}")
    return int(table["failed"].sum() > 0)


def fit_index(
    command: CommandLine[Flags], points: list[Point], flags: Flags
) -> int:
    """Fits one point in this process, as fit does.

    Raises:
        Exception: What fit raises; its sentence is kept for the report.
        ValueError: If there is no such point.
    """
    index, output = flags.index or 0, flags.output
    if not 0 <= index < len(points):
        raise ValueError(
            f"--index is {index}; expected one of the {len(points)} points, "
            f"from 0 to {len(points) - 1}"
        )
    point = points[index]
    if is_complete(point, output):
        print(f"{point.name} is complete")
        return 0
    error_path(point, output).unlink(missing_ok=True)
    one = make_command(point, output, command.interrupt)
    try:
        return fit.main(one)
    except Exception as error:
        sentence = " ".join(explain(error, one).split())
        keep_error(point, output, sentence)
        raise ValueError(f"{point.name}: {sentence}") from None
