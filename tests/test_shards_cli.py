"""A fit's processes under torchrun: one voice, one folder, one end."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from socket import socket

import pytest
import torch.distributed as dist

from pyro_vae.cli import processes
from pyro_vae.cli.processes import meet
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.svi import LostProcessError
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


def start(folder, count, *words, restarts=0, machines=("--standalone",)):
    launcher = ["-m", "torch.distributed.run", *machines]
    launcher += ["--nproc-per-node", str(count)]
    launcher += ["--max-restarts", str(restarts)]
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, words)],
        cwd=folder,
        env={
            **environment(folder),
            "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torchrun(*arguments, **options):
    """Returns how one torchrun has ended."""
    (result,) = wait([start(*arguments, **options)])
    return result


def wait(launched):
    """Returns how several have ended, within five minutes."""
    results = []
    try:
        for process in launched:
            out, err = process.communicate(timeout=300)
            results.append(
                subprocess.CompletedProcess([], process.returncode, out, err)
            )
    finally:
        for process in launched:
            process.kill()
    return results


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


@pytest.mark.slow
def test_machines_start_anew_together(tmp_path):
    """Two launches meet as those of two machines do."""
    with socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    machines = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "own"]
    machines += ["--rdzv-endpoint", f"localhost:{port}"]
    (tmp_path / "driver.py").write_text(DRIVER)
    words = ("driver.py", "killed", SCRIPTS / "fit.py", *SMALL, "run")
    words = (tmp_path, 1, *words, "--epochs", 3)
    options = {"restarts": 3, "machines": machines}
    results = wait([start(*words, **options) for _ in range(2)])
    assert [result.returncode for result in results] == [0, 0], results
    assert sum("started anew" in result.stdout for result in results) == 1
    words = (*SMALL, "alone", "--epochs", 3)
    assert run(tmp_path, "fit.py", *words).returncode == 0
    check_same_history(tmp_path, "alone", "run")


def meet_all(store, count):
    with ThreadPoolExecutor(count) as pool:
        ranks = range(count)
        return list(pool.map(lambda r: meet(store, r, count), ranks))


def test_the_processes_of_each_start_meet():
    store = dist.HashStore()
    first, second = (set(meet_all(store, 3)) for _ in range(2))
    assert len(first) == len(second) == 1 and first != second
    assert set(meet_all(store, 2)).isdisjoint(first | second)


def test_processes_do_not_meet_those_that_ended(monkeypatch):
    store = dist.HashStore()
    meet_all(store, 2)
    monkeypatch.setattr(processes, "TIMEOUT", timedelta(seconds=0.2))
    for rank in (1, 0):
        with pytest.raises(LostProcessError, match="of the 2 processes"):
            meet(store, rank, 2)
    monkeypatch.undo()
    assert len(set(meet_all(store, 2))) == 1


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
