"""Ctrl-C, SIGTERM and closed streams, at each phase of a command."""

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae.cli.interrupt import Interrupt
from pyro_vae.cli.streams import Stream
from pyro_vae.runs.history import HISTORY, read_history
from tests.commands import SCRIPTS, environment, run, script

PACKAGE = SCRIPTS.parent / "pyro_vae"
SMALL = ["--dataset", "digits", "--hidden", "16", "--engine", "eager"]
SMALL += ["--batch-size", "200", "--output", "run"]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
# Runs fit.py with one of its functions put to sleep.
DRIVER = """
import runpy, sys, time
from pyro_vae.cli import fit
from pyro_vae.training.trainer import Trainer
import pyro_vae.training.loop as loop

phase, script, *sys.argv[1:] = sys.argv[1:]
usual = loop.take_step

def sleep(*arguments):
    print("asleep", flush=True)
    time.sleep(60)

def step(trainer, *arguments):
    if trainer.progress.epoch == 1:
        sleep()
    return usual(trainer, *arguments)

if phase == "loading":
    fit.load_data = sleep
elif phase == "compiling":
    Trainer.compile = sleep
elif phase == "stepping":
    loop.take_step = step
elif phase == "drawing":
    fit.draw_run = sleep
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def begin(folder, words, **options):
    return subprocess.Popen(
        words,
        cwd=folder,
        env={
            **environment(folder),
            "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}",
            **options.pop("env", {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(process, start):
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(process.stderr.read())


def end(process):
    try:
        out, err = process.communicate(timeout=60)  # it may be a busy machine
    finally:
        process.kill()
    assert "Traceback" not in err and "ignored" not in err, err
    return out, err


def doze(path):
    """Writes a module that takes long to load."""
    path.parent.mkdir(exist_ok=True)
    text = "import time\nprint('loading', flush=True)\ntime.sleep(60)\n"
    path.write_text(text)


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize(
    "words",
    [
        ["scripts/fit.py"],
        ["scripts/evaluate.py"],
        ["scripts/compare.py"],
        ["scripts/assignment.py"],
        ["-m", "pyro_vae"],
        ["pyro-vae"],
    ],
    ids=lambda value: value[-1],
)
def test_while_it_loads_a_command_stops_with_a_sentence(
    tmp_path, words, number
):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    package = tmp_path / "pyro_vae"
    (package / "cli").mkdir(parents=True)
    for name in (
        "__init__.py",
        "__main__.py",
        "cli/__init__.py",
        "cli/start.py",
    ):
        shutil.copy(PACKAGE / name, package / name)
    # As pip writes the command.
    (tmp_path / "pyro-vae").write_text("from pyro_vae.__main__ import main")
    doze(package / "config/__init__.py")
    where = {"PYTHONPATH": str(tmp_path)}
    process = begin(tmp_path, [sys.executable, *words], env=where)
    wait_for(process, "loading")
    process.send_signal(number)
    out, err = end(process)
    assert err == "stopped while loading; nothing was done\n" and not out
    assert process.returncode == STATUS[number]


@pytest.fixture
def usual_handlers():
    handlers = {number: signal.getsignal(number) for number in STATUS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_raises_unless_steps_hear_it(
    usual_handlers, monkeypatch, capfd, number
):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with Interrupt() as interrupt:
        assert not interrupt.is_requested() and interrupt.status == 0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    with Interrupt() as interrupt:
        interrupt.is_patient = True
        signal.raise_signal(number)
        assert interrupt.is_requested() and interrupt.status == STATUS[number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert not ended
        with pytest.raises(KeyboardInterrupt):  # the process is over here
            signal.raise_signal(number)
            raise KeyboardInterrupt
        assert ended == [STATUS[number]]
    assert "stopped at once; every file is whole" in capfd.readouterr().err
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_signal_that_python_ignores_ends_the_process(
    usual_handlers, monkeypatch, capfd
):
    class Last:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    ended, usual = [], sys.unraisablehook
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: None)
    with Interrupt():
        Last()
    assert ended == [130]
    monkeypatch.undo()
    assert sys.unraisablehook is usual


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("loading", "stopped at once; give the same command to start again"),
        ("compiling", "nothing was saved yet: give the same command to start"),
        ("stepping", "run holds the run up to epoch 1. To go on: python "),
        ("drawing", "run holds the run up to epoch 2. To go on: python "),
    ],
)
def test_at_each_phase_a_fit_stops_at_once(tmp_path, phase, said, number):
    words = [sys.executable, "-c", DRIVER, phase, str(SCRIPTS / "fit.py")]
    process = begin(tmp_path, [*words, *SMALL, "--epochs", "2"])
    wait_for(process, "asleep")
    process.send_signal(number)
    if phase == "stepping":  # the first one waits for the step
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(number)
    _, err = end(process)
    assert said in err and err.count("\n") == 1
    assert process.returncode == STATUS[number]
    left = {p.name for p in tmp_path.glob("run/*")}
    assert "fit.lock" not in left
    if phase in ("loading", "compiling"):
        assert not left
        return
    assert f"--resume --output run{os.linesep}" in err
    result = run(tmp_path, "fit.py", "--resume", *SMALL[-2:], "--no-figures")
    assert result.returncode == 0, result.stderr
    assert len(read_history(tmp_path / "run" / HISTORY)) == 3


@pytest.mark.slow
def test_stopped_before_it_began_a_replacement_names_no_old_run(tmp_path):
    result = run(tmp_path, "fit.py", *SMALL, "--epochs", 1, "--no-figures")
    assert result.returncode == 0, result.stderr
    words = [sys.executable, "-c", DRIVER, "compiling", SCRIPTS / "fit.py"]
    process = begin(tmp_path, [*words, *SMALL, "--overwrite"])
    wait_for(process, "asleep")
    process.send_signal(signal.SIGINT)
    _, err = end(process)
    assert "nothing was saved yet" in err
    assert len(read_history(tmp_path / "run" / HISTORY)) == 2


@pytest.mark.slow
def test_a_compilation_is_stopped_at_once(tmp_path):
    compiler = tmp_path / "gcc"  # which never comes to an end
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec gcc "$1"\nexec sleep 600\n'
    )
    compiler.chmod(0o700)
    given = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CC": str(compiler)}
    words = [*SMALL, "--engine", "compiled"]
    process = begin(tmp_path, script("fit.py", *words), env=given)
    wait_for(process, "compiling the step")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGINT)
    _, err = end(process)
    assert err.splitlines()[-1].startswith("stopped at once; ")
    assert process.returncode == 130


@pytest.mark.slow
def test_sigterm_stops_after_the_step_and_says_how_to_go_on(tmp_path):
    words = [*SMALL, "--epochs", 100_000, "--no-figures"]
    process = begin(tmp_path, script("fit.py", *words))
    wait_for(process, "epoch   1")
    process.send_signal(signal.SIGTERM)
    out, err = end(process)
    assert process.returncode == 143 and not err
    path = SCRIPTS / "fit.py"
    assert out.endswith(f"To go on: python {path} --resume --output run\n")
    assert len(read_history(tmp_path / "run" / HISTORY)) > 1


@pytest.mark.slow
def test_a_fit_ends_whole_without_a_reader(tmp_path):
    process = begin(tmp_path, script("fit.py", *SMALL, "--epochs", 30))
    wait_for(process, "epoch   0")
    with process:
        process.stdout.close()
        assert not process.stderr.read()
    assert process.returncode == 0
    assert len(read_history(tmp_path / "run" / HISTORY)) == 31
    assert (tmp_path / "run" / "figures" / "elbo.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&- 2>&-", ">/dev/full"])
def test_a_fit_ends_whole_with_closed_streams(tmp_path, closed):
    words = script("fit.py", *SMALL, "--epochs", 2)
    process = begin(tmp_path, ["sh", "-c", f'exec "$@" {closed}', "-", *words])
    out, err = end(process)
    assert process.returncode == 0 and not err
    assert out == "" if closed.startswith(">") else "epoch   2" in out
    assert len(read_history(tmp_path / "run" / HISTORY)) == 3


@pytest.mark.slow
def test_a_name_that_cannot_be_printed_is_escaped(tmp_path):
    name = os.fsdecode(b"l\xc3\xa4ufe-\xff")
    words = script("fit.py", *SMALL[:-1], name, "--epochs", 1)
    process = begin(tmp_path, words, env={"PYTHONIOENCODING": "ascii"})
    out, err = end(process)
    assert process.returncode == 0 and not err
    assert out.splitlines()[-1].startswith(r"l\xe4ufe-\udcff: normal prior")
    assert (tmp_path / name / HISTORY).exists()


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_stream_falls_silent_at_its_first_failure():
    stream = Stream(Broken())
    assert stream.write("said") == 4
    stream.flush()
    assert stream.name == os.devnull
    closed = io.StringIO()
    closed.close()
    assert Stream(closed).write("said") == 4
    assert Stream(None).write("said") == 4


def test_what_a_buffer_holds_for_a_lost_reader_does_no_harm(tmp_path):
    reader, writer = os.pipe()
    kept = open(writer, "w")  # noqa: SIM115  # closed by the test
    stream = Stream(kept)
    os.close(reader)
    stream.write("a line\n")
    stream.flush()
    kept.write("more\n")
    kept.close()  # no BrokenPipeError


def test_the_start_gives_the_handlers_back(usual_handlers):
    before = signal.getsignal(signal.SIGTERM)
    code = Path(PACKAGE / "cli" / "start.py").read_text()
    names = {}
    exec(code, names)
    assert signal.getsignal(signal.SIGTERM) is names["end_now"]
    names["give_back"]()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_evaluation_that_is_stopped_says_what_is_written(tmp_path):
    run(tmp_path, "fit.py", *SMALL, "--epochs", "1", "--no-figures")
    words = ["--methods", "elbo", "ais", "--num-samples", "1000000"]
    process = begin(tmp_path, script("evaluate.py", "run", *words))
    wait_for(process, "elbo")
    process.send_signal(signal.SIGINT)
    _, err = end(process)
    assert process.returncode == STATUS[signal.SIGINT]
    said = "stopped at once; run/evaluation.csv has what was done: elbo\n"
    assert err.endswith(said)
    lines = (tmp_path / "run" / "evaluation.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["what", "elbo"]
