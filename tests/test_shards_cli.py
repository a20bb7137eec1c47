"""A fit's processes under torchrun: one voice, one folder, one end."""

import os
import subprocess
import sys

import pytest

from pyro_vae.runs.history import HISTORY, read_history
from tests.commands import SCRIPTS, environment, run
from tests.models import TIMING

SMALL = ["--dataset", "digits", "--hidden", "16", "--batch-size", "500"]
SMALL += ["--engine", "eager", "--no-figures", "--output"]
# Runs fit.py, one of whose processes comes to harm after the first epoch.
DRIVER = """
import os, runpy, signal, sys
import pyro_vae.training.loop as loop

harm, script, *sys.argv[1:] = sys.argv[1:]
usual = loop.take_step
is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
is_mine = os.environ["RANK"] == "1" and is_first
if harm == "killed early" and is_mine:
    os.kill(os.getpid(), signal.SIGKILL)

def step(trainer, x, *arguments):
    if trainer.progress.epoch == 1 and is_mine:
        if harm == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif harm == "error":
            raise ValueError("this process has an error of its own")
        x = x * float("nan")
    return usual(trainer, x, *arguments)

loop.take_step = step
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def torchrun(folder, count, *words, restarts=0):
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", str(count)]
    launcher += ["--max-restarts", str(restarts)]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, words)],
        cwd=folder,
        env={
            **environment(folder),
            "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def fit_harmed(folder, harm):
    """Returns what is said by a fit that comes to harm, and its history."""
    (folder / "driver.py").write_text(DRIVER)
    words = [harm, SCRIPTS / "fit.py", *SMALL, "run", "--epochs", 3]
    result = torchrun(folder, 2, "driver.py", *words)
    assert result.returncode != 0
    said = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    return said, read_history(folder / "run" / HISTORY)


def test_what_all_refuse_is_said_once(tmp_path):
    words = (SCRIPTS / "fit.py", *SMALL, "run", "--free-bits", 0.1)
    result = torchrun(tmp_path, 2, *words)
    assert result.returncode != 0
    assert result.stderr.count("error: --free-bits is 0.1, a floor") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        ("killed", "error: another process of this fit has ended"),
        ("error", "error: this process has an error of its own"),
        ("nan", "error: the loss is nan at site 'z' of the guide, in epoch 2"),
    ],
)
def test_harm_to_one_process_ends_all_and_is_said_once(
    tmp_path, harm, sentence
):
    said, history = fit_harmed(tmp_path, harm)
    assert len(said) == 1 and said[0].startswith(sentence)
    assert [record["epoch"] for record in history] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["killed", "killed early"])
def test_torchrun_starts_anew_where_the_checkpoint_is(tmp_path, harm):
    (tmp_path / "driver.py").write_text(DRIVER)
    words = (*SMALL, "run", "--epochs", 3)
    harmed = ("driver.py", harm, SCRIPTS / "fit.py", *words)
    result = torchrun(tmp_path, 2, *harmed, restarts=1)
    assert result.returncode == 0, result.stderr
    goes_on = "started anew by torchrun: run holds the run to epoch 1"
    assert (goes_on in result.stdout) == (harm == "killed")
    words = (*SMALL, "alone", "--epochs", 3)
    assert run(tmp_path, "fit.py", *words).returncode == 0
    check_same_history(tmp_path, "alone", "run")


def check_same_history(folder, *names):
    alone, shared = (read_history(folder / name / HISTORY) for name in names)
    for one, other in zip(alone, shared, strict=True):
        for key in one.keys() - {*TIMING}:
            assert other[key] == pytest.approx(one[key], rel=1e-4), key


def test_a_restart_that_would_overwrite_is_refused(tmp_path):
    words = (SCRIPTS / "fit.py", *SMALL, "run", "--overwrite")
    result = torchrun(tmp_path, 1, *words, restarts=1)
    assert result.returncode != 0
    assert "error: --overwrite was given, and torchrun's" in result.stderr


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(tmp_path):
    words = (*SMALL, "alone", "--epochs", 3)
    assert run(tmp_path, "fit.py", *words).returncode == 0
    first = (SCRIPTS / "fit.py", *SMALL, "shared", "--epochs", 1)
    result = torchrun(tmp_path, 2, *first)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch   1") == 1  # one process prints
    more = ("--resume", "--output", "shared", "--no-figures", "--epochs", 2)
    result = torchrun(tmp_path, 3, SCRIPTS / "fit.py", *more)
    assert result.returncode == 0, result.stderr
    last = (*more[:-1], 3)
    assert run(tmp_path, "fit.py", *last).returncode == 0
    check_same_history(tmp_path, "alone", "shared")


@pytest.mark.slow
def test_a_restart_leaves_a_run_that_was_there_before_the_launch(tmp_path):
    words = (SCRIPTS / "fit.py", *SMALL, "run", "--epochs")
    assert torchrun(tmp_path, 1, *words, 1).returncode == 0
    before = (tmp_path / "run" / HISTORY).read_bytes()
    result = torchrun(tmp_path, 1, *words, 2, restarts=1)
    assert result.returncode != 0
    assert "exists; expected a new folder" in result.stderr
    assert "started anew" not in result.stdout
    assert (tmp_path / "run" / HISTORY).read_bytes() == before
