"""Runs Pyro's examples and tutorials under CompiledSVI; writes a table."""

import math
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pyro_programs_compare import (
    Object,
    compare_objects,
    get_dtype,
    list_without_gradient,
    measure,
)
from pyro_programs_list import PROGRAMS, Program
from tqdm import tqdm

from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_table

CSV = "programs.csv"
LOGS = "logs"
FEW_GRAPHS = 3  # in one SVI object, above which the row says how many
GRACE = 30  # seconds after which a child that does not stop is killed
WORST_FIRST = ("error", "differs", "not finished", "refused", "same")

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        checkout: A checkout of Pyro, with examples/ and tutorial/.
        output: Folder for programs.csv and the logs of all runs.
        only: Run the programs only whose names contain one of these words.
        steps: Steps that each SVI object takes.
        seconds: The time limit of each run.
        engine: recorded runs the recorded graph without compiling it, which
            is quicker.
    """

    checkout: Path
    output: Path = Path("results/pyro_programs")
    only: tuple[str, ...] = ()
    steps: int = 12
    seconds: int = 300
    engine: Literal["compiled", "recorded"] = "compiled"


def main(command: CommandLine[Flags]) -> int:
    """Runs all; returns 1 if a program differs or meets an error, else 0."""
    flags = command.parse()
    check_at_least_1(flags, "steps", "seconds")
    programs = choose(flags)
    (flags.output / LOGS).mkdir(parents=True, exist_ok=True)
    rows = []
    for program in tqdm(programs, disable=None):
        rows.append(judge(program, flags))
        print(f"{program.name}: {rows[-1]['verdict']}", flush=True)
        table = pd.DataFrame(rows)
        write_table(table, flags.output / CSV)
    print("\n".join(write_lines(table)))
    bad = table["verdict"].str.startswith(("error", "differs"))
    return int(bad.any())


def choose(flags: Flags) -> list[Program]:
    """Returns the programs that the flags ask for."""
    if not (flags.checkout / "examples").is_dir():
        raise ValueError(
            f"checkout is {flags.checkout}; expected a checkout of Pyro, "
            "with a folder examples"
        )
    chosen = [
        program
        for program in PROGRAMS
        if not flags.only or any(word in program.name for word in flags.only)
    ]
    if not chosen:
        raise ValueError(
            f"only is {' '.join(flags.only)}; expected words of names such as "
            f"{PROGRAMS[0].name}"
        )
    return chosen


def judge(program: Program, flags: Flags) -> dict[str, Any]:
    """Runs a program twice, and returns the row that compares the runs."""
    row = {"program": program.name, "verdict": "", "objects": 0}
    row |= {"eager_ms": math.nan, "compiled_ms": math.nan, "ratio": math.nan}
    row |= {"compile_s": math.nan, "remarks": ""}
    reason = program.left_out
    if not reason and not (flags.checkout / program.path).exists():
        reason = "it is not in the checkout"
    if reason:
        return {**row, "verdict": f"not run: {reason}"}
    eager = run_child(program, flags, "eager")
    pairs = list_objects(eager)
    if not pairs:
        reason = eager["error"] or "no step was taken"
        return {**row, "verdict": f"not run: {reason}"}
    compiled = run_child(program, flags, flags.engine)
    row |= compare(eager, compiled)
    if row["verdict"].startswith("differs"):
        remarks = [row["remarks"], tell_roundings(eager, program, flags)]
        row["remarks"] = "; ".join(filter(None, remarks))
    return row


def tell_roundings(eager: Outcome, program: Program, flags: Flags) -> str:
    """Returns what roundings of the gradients do to an eager run."""
    moved = run_child(program, flags, "moved")
    verdict = compare(eager, moved)["verdict"]
    return f"eager, its gradients moved by a rounding: {verdict}"


def list_objects(outcome: Outcome) -> list[Object]:
    """Returns the SVI objects of a run that took a step or evaluated."""
    return [each for each in outcome["objects"] if each["losses"]]


def run_child(program: Program, flags: Flags, engine: str) -> Outcome:
    """Runs a program in a process of its own, and returns what it did."""
    label = "".join(c if c.isalnum() else "_" for c in program.name)
    log = flags.output / LOGS / f"{label}.{engine}.txt"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcome.pt"
        job = {
            "path": program.path,
            "root": str(flags.checkout.resolve()),
            "arguments": tuple(program.arguments.split()),
            "smoke": program.smoke,
            "engine": engine,
            "steps": flags.steps,
            "seconds": flags.seconds,
            "output": str(file),
        }
        child = Path(__file__).with_name("pyro_programs_child.py")
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "cache"),
        }
        with log.open("w") as text, suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [sys.executable, str(child), repr(job)],
                stdout=text,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=flags.seconds + GRACE,
                check=False,
            )
        if file.exists():
            return torch.load(file)
    return {"error": f"the process ended; see {log}", "objects": []}


def compare(eager: Outcome, compiled: Outcome) -> dict[str, Any]:
    """Returns the verdict on two runs, their times, and remarks."""
    expected, found = list_objects(eager), list_objects(compiled)
    verdicts = [
        compare_objects(*each) for each in zip(expected, found, strict=False)
    ]
    if len(found) != len(expected):
        is_late = "s are over" in compiled["error"]
        verdicts.append(
            "not finished"
            if is_late
            else f"error: {compiled['error'] or 'other SVI objects'}"
        )
    verdict = min(verdicts, key=rank)
    failures = [v for v in verdicts if v.startswith(("refused", "error"))]
    if failures:  # Pyro's SVI went on, which other objects may notice
        verdict = min(failures, key=rank)
    remarks = compiled["remarks"] + list_failures(eager, compiled)
    for each in found:
        remarks += each["remarks"]
        graphs, steps = sum(each["compiled"]), len(each["seconds"])
        if graphs > FEW_GRAPHS:
            remarks.append(f"{graphs} of {steps} steps compile")
    if verdict != "same" and len(verdicts) > 1:
        others = sum(each == "same" for each in verdicts)
        remarks.append(f"{others} of {len(expected)} are the same")
    if ignored := [n for each in expected for n in list_without_gradient(each)]:
        remarks.append(f"gradients of rounding only: {', '.join(ignored)}")
    if any(get_dtype(each) is torch.float32 for each in expected):
        remarks.append("float32, to 1e-4")
    return {
        "verdict": verdict,
        "objects": len(expected),
        **measure(expected, found),
        "remarks": "; ".join(dict.fromkeys(remarks)),
    }


def list_failures(eager: Outcome, compiled: Outcome) -> list[str]:
    """Returns remarks on what failed outside of SVI objects."""
    remarks = []
    if both := eager["failed"].keys() & compiled["failed"].keys():
        cells = ", ".join(map(str, sorted(both)))
        remarks.append(f"cells that fail in both runs: {cells}")
    for index, message in compiled["failed"].items():
        if index not in eager["failed"]:
            remarks.append(f"cell {index} fails only here: {message}")
    if eager["error"]:
        remarks.append(f"ends with {eager['error']}")
    return remarks


def rank(verdict: str) -> int:
    """Returns the place of a verdict among all, the worst first."""
    (place,) = (
        index
        for index, start in enumerate(WORST_FIRST)
        if verdict.startswith(start)
    )
    return place


def write_lines(table: pd.DataFrame) -> list[str]:
    """Returns the lines of the table in Markdown."""
    lines = [
        "| program | verdict | SVI objects | eager, ms | compiled, ms "
        "| ratio | to compile, s | remarks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for _, row in table.iterrows():
        numbers = [
            "" if math.isnan(row[name]) else f"{row[name]:.3g}"
            for name in ("eager_ms", "compiled_ms", "ratio", "compile_s")
        ]
        cells = [row["program"], row["verdict"], str(row["objects"])]
        cells += [*numbers, row["remarks"]]
        line = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| {line} |")
    return lines


if __name__ == "__main__":
    run(main, Flags, __doc__)
