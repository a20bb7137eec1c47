"""Feeds the commands what nobody should: extreme flags, broken files.

Each case runs in a child of its own, with a limit on its time and its memory.
It may succeed, or end in one sentence; a traceback, a hang, a number that is
not finite in a history, or a lost file is a fault.

    python -m tests.fuzz --commands 1000 --others 100 --files 300 --folders 300
"""

import argparse
import contextlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import h5py
import numpy as np
import pandas as pd

from pyro_vae.cli import compare, evaluate, fit
from pyro_vae.cli.command import run
from pyro_vae.config import Config
from pyro_vae.runs.history import HISTORY

SECONDS, GIGABYTES = 60, 12
INTEGERS = ("0", "1", "-1", "2", "3", "7", "1000000000", "9" * 19, "9" * 400)
FLOATS = ("0", "0.5", "-1", "1e-45", "1e-30", "1e18", "1e39", "nan", "inf")
WORDS = ("", "none", "\udcff", "$x^", "../..", "1e3", "normal", "--", "🦜")
BASE = ("--dataset", "digits", "--limit", "30", "--epochs", "1")
BASE = (*BASE, "--hidden", "4", "--engine", "eager", "--device", "cpu")
KINDS = ("f2", "f4", "f8", ">f4", ">f8", "g", "u1", "i8", ">i4", "b1")
KINDS = (*KINDS, "c8", "U3", "O", "M8[s]")
FEW = ("--methods", "elbo", "--gap-images", "0", "--limit", "5")
ON = ("--epochs", "2", "--no-figures")
COMMANDS = {"fit": fit, "evaluate": evaluate, "compare": compare}
JUNK = (None, -1, 0, 1e300, "x", "", [], {}, [[[]]], {"a": 1}, True, "9" * 99)


@dataclass(frozen=True)
class Case:
    """One command line.

    Attributes:
        name: The command's name.
        words: Its flags.
        folder: The folder that it writes to.
    """

    name: str
    words: tuple[str, ...]
    folder: Path


def find_fault(case: Case) -> str | None:
    """Runs a case in a child; returns what is wrong with it, if anything."""
    log = case.folder.with_name(case.folder.name + ".log")
    child = os.fork()
    if child == 0:
        _run(case, log)
    code = wait_for(child, SECONDS)
    if code is None and "\nepoch " in log.read_text(errors="replace"):
        os.kill(child, signal.SIGINT)  # it is at work, as it was told to be
        code = wait_for(child, SECONDS)
        code = 0 if code == 130 else code
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"it had not ended after {SECONDS} seconds"
    text = log.read_text(errors="replace")
    if "Traceback" in text or code not in (0, 2):
        return f"status {code}: {text[-600:]}"
    is_explained = "error:" in text or "For full helptext" in text
    if code == 2 and not is_explained:
        return f"status 2 without a sentence: {text[-600:]}"
    return find_not_finite(case.folder / HISTORY)


def wait_for(child: int, seconds: float) -> int | None:
    """Returns a child's exit status; None if it has not ended by then."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def find_not_finite(path: Path) -> str | None:
    """Returns a cell of a history that is not finite, if there is one."""
    if path.is_symlink() or not path.is_file():
        return None
    for line in path.read_text(errors="replace").splitlines()[1:]:
        for cell in line.split(","):
            with contextlib.suppress(ValueError):
                if not math.isfinite(float(cell)):
                    return f"{cell} in {path.name}"
    return None


def _run(case: Case, log: Path) -> None:
    """Runs a case in this process, which then ends."""
    warnings.resetwarnings()  # of those that a test makes errors
    limit = GIGABYTES << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", errors="backslashreplace", closefd=False)
        for number in (1, 2)
    )
    module, status = COMMANDS[case.name], 1
    try:
        run(module.main, module.Flags, module.__doc__, case.words, case.name)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int | None) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status or 0)


def draw_flags(source: random.Random, kind: type) -> Iterator[str]:
    """Yields a few flags of a dataclass, with values from all over."""
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind) if field.name in hints]
    for name in source.sample(names, source.randint(1, 4)):
        if name in ("output", "folder", "runs", "data_dir", "dataset"):
            continue
        text = str(hints[name])
        yield "--" + name.replace("_", "-")
        if hints[name] is bool:
            continue
        for _ in range(source.choice((1, 1, 1, 2))):
            yield draw_value(source, hints[name], text)


def draw_value(source: random.Random, hint: Any, text: str) -> str:
    """Returns a value for a flag: often of its kind, seldom a sensible one."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if source.random() < 0.05:
        return source.choice(WORDS + INTEGERS + FLOATS)
    if get_origin(hint) is Literal:
        return str(source.choice(get_args(hint)))
    if "float" in text:
        return source.choice(FLOATS)
    if "int" in text:
        return source.choice(INTEGERS)
    return source.choice(WORDS)


def draw_fits(source: random.Random, count: int, folder: Path) -> Iterator:
    """Yields command lines of fit."""
    for index in range(count):
        output = folder / f"fit{index}"
        words = (*BASE, "--output", str(output))
        if source.random() < 0.9:
            words = (*words, "--no-figures")
        yield Case("fit", (*words, *draw_flags(source, Config)), output)


def draw_others(
    source: random.Random, count: int, folder: Path, a_run: Path
) -> Iterator:
    """Yields command lines of the other commands, on a run."""
    usual = ("--gap-images", "2", "--num-samples", "10", "--limit", "5")
    for index in range(count):
        output = folder / f"other{index}"
        flags = tuple(draw_flags(source, evaluate.Flags))
        words = (str(a_run), *usual, "--output", str(output), *flags)
        yield Case("evaluate", words, output)
        runs = source.choices((str(a_run), str(folder), "", "nowhere"), k=2)
        yield Case("compare", (*runs, "--output", str(output)), output)


def draw_files(source: random.Random, count: int, folder: Path) -> Iterator:
    """Yields fits to data files that are odd or broken."""
    for index in range(count):
        name = source.choice(("data", "a$b^$", "\udcff", "ü", "a b"))
        suffix = source.choice((".npy", ".npz", ".csv", ".h5", ".png"))
        path = folder / f"{name}{index}{suffix}"
        write_file(source, path)
        output = folder / f"file{index}"
        words = (*BASE, "--epochs", "0", "--dataset", str(path))
        words = (*words, "--output", str(output), "--batch-size", "8")
        if source.random() < 0.8:
            words = (*words, "--no-figures")
        yield Case("fit", words, output)


def write_file(source: random.Random, path: Path) -> None:
    """Writes a file of data, and damages every other one."""
    noise = np.random.default_rng(source.randrange(1 << 30))
    shape = source.choice(
        ((20, 4, 4), (20, 16), (6, 3, 5, 3), (20, 0), (3, 4), (20,), (), (0, 4))
    )
    values = np.asarray(noise.random(shape))
    kind = source.choice(KINDS)
    with contextlib.suppress(TypeError, ValueError):
        values = (values * source.choice((1, 1, 1, 255, -1))).astype(kind)
    values = np.asarray(values)  # a number has no axis
    if values.size and values.dtype.kind == "f" and source.random() < 0.2:
        values.flat[0] = source.choice((np.nan, np.inf, -np.inf))
    labels = noise.integers(0, 3, source.choice((20, 6, 3)))
    name = source.choice(("images", "images", "x"))
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, **{name: values, "labels": labels})
    elif path.suffix == ".csv":
        rows = np.atleast_2d(values)
        lines = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        pd.DataFrame(lines).to_csv(path, index=False)
    else:
        with contextlib.suppress(TypeError), h5py.File(path, "w") as file:
            file[name], file["labels"] = values, labels
    if source.random() < 0.5:
        damage(source, path)


def damage(source: random.Random, path: Path) -> None:
    """Cuts a file, changes some of its bytes, or puts others there."""
    content = bytearray(path.read_bytes())
    how = source.choice(("cut", "change", "replace", "grow"))
    if how == "cut":
        content = content[: source.randrange(len(content) + 1)]
    elif how == "replace":
        content = bytearray(source.choice((b"", b"\0" * 99, b"[" * 9999)))
    elif how == "grow":
        content += bytes(source.randrange(256) for _ in range(99))
    else:
        for _ in range(source.randint(1, 9)):
            if content:
                content[source.randrange(len(content))] = source.randrange(256)
    path.write_bytes(content)


def draw_folders(
    source: random.Random, count: int, folder: Path, a_run: Path
) -> Iterator:
    """Yields commands on runs that were damaged, or crafted."""
    for index in range(count):
        broken = folder / f"run{index}"
        shutil.copytree(a_run, broken)
        if source.random() < 0.5:
            (broken / "manifest.json").unlink()
        path = source.choice(sorted(broken.glob("*.*")))
        if path.suffix == ".json" and source.random() < 0.8:
            about = json.loads(path.read_text())
            path.write_text(json.dumps(mutate(source, about)))
        elif source.random() < 0.2:
            path.unlink()
        else:
            damage(source, path)
        output = folder / f"broken{index}"
        name, *words = source.choice(
            (
                ("compare", str(broken), "--output", str(output)),
                ("evaluate", str(broken), *FEW, "--output", str(output)),
                ("fit", "--resume", *ON, "--output", str(broken)),
            )
        )
        yield Case(name, tuple(words), broken if name == "fit" else output)


def mutate(source: random.Random, value: Any) -> Any:
    """Returns a JSON value with something in it replaced."""
    if isinstance(value, dict) and value and source.random() < 0.9:
        key = source.choice(list(value))
        if source.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutate(source, value[key])}
    return source.choice(JUNK)


def report(
    about: str, cases: Iterator, log: Callable[[str], None] = print
) -> int:
    """Runs cases, says what is wrong with which, and returns how many."""
    faults = total = 0
    for case in cases:
        total += 1
        if fault := find_fault(case):
            faults += 1
            words = " ".join(map(ascii, case.words))
            log(f"FAULT {case.name} {words}\n    {fault}")
        shutil.rmtree(case.folder, ignore_errors=True)
    log(f"{about}: {total} cases, {faults} faults")
    return faults


def fuzz(
    seed: int, commands: int, others: int, files: int, folders: int
) -> int:
    """Runs so many cases of each kind, and returns the number of faults."""
    source = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        a_run = folder / "a_run"
        a_fit = Case("fit", (*BASE, "--output", str(a_run)), a_run)
        if fault := find_fault(a_fit):
            raise RuntimeError(fault)
        return (
            report("fit", draw_fits(source, commands, folder))
            + report("others", draw_others(source, others, folder, a_run))
            + report("data files", draw_files(source, files, folder))
            + report("folders", draw_folders(source, folders, folder, a_run))
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("seed", "commands", "others", "files", "folders"):
        parser.add_argument(f"--{flag}", type=int, default=0)
    sys.exit(fuzz(**vars(parser.parse_args())) > 0)
