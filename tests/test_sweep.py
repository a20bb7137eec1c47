"""A grid of fits: its points, what is left of it, and its report."""

import os
import signal
import subprocess
import time

import pandas as pd
import pytest

from pyro_vae import load_vae
from pyro_vae.cli.grid import read_grid
from pyro_vae.runs.history import HISTORY, read_history
from tests.commands import environment, error_of, run, script
from tests.models import without_timing

SMALL = (
    *("--dataset", "digits", "--limit", 40, "--hidden", 6, "--no-figures"),
    *("--engine", "eager", "--device", "cpu", "--batch-size", 20),
)
SIX = ("--prior", "normal", "laplace", "--seed", 0, 1, 2)


def test_a_grid_is_the_product_of_the_values(tmp_path):
    words = "--prior normal laplace --epochs 3 --hidden 8 4 --hidden 6 --seed=7"
    points = read_grid(words.split(), tmp_path)
    assert [(p.config.prior, p.config.hidden) for p in points] == [
        ("normal", (8, 4)),
        ("normal", (6,)),
        ("laplace", (8, 4)),
        ("laplace", (6,)),
    ]
    assert {(p.config.epochs, p.config.seed) for p in points} == {(3, 7)}
    assert points[0].folder == tmp_path / "prior-normal_hidden-8-4"
    (alone,) = read_grid(
        ["--prior", "laplace", "--learn-prior-scale"], tmp_path
    )
    assert alone.name == "run" and alone.config.learn_prior_scale


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--priors normal", "--priors was given; expected flags of the sweep"),
        ("normal laplace", "'normal' was given; expected flags with"),
        ("--resume", "--resume was given; expected"),
        ("--seed 1 1", "two points of the grid are called seed-1"),
        ("--epochs 5 -1", "--epochs is -1; expected"),
        ("--batch-size " + "1 " * 10_001, "has 10,001 points; expected at"),
        ("--seed 0 1 --index 2", "--index is 2; expected 0 to 1"),
        ("--seed 0 --jobs 0", "--jobs is 0; expected at least 1"),
    ],
)
def test_what_is_no_grid_is_refused_before_any_fit(tmp_path, words, sentence):
    done = run(tmp_path, "sweep.py", *words.split(), "--output", "sweep")
    assert sentence in error_of(done)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_failed_point_does_not_end_the_others(tmp_path):
    words = (*SMALL, "--epochs", 1, "--output", "sweep", "--jobs", 2)
    words = (*words, "--init-std", 0.1, "1e18")
    done = run(tmp_path, "sweep.py", *words)
    assert done.returncode == 1 and not done.stderr
    states = pd.read_csv(tmp_path / "sweep/points.csv").set_index("point")
    assert states["state"]["init-std-0.1"] == "complete"
    assert states["state"]["init-std-1e18"] == "not begun"
    assert "try a smaller" in states["error"]["init-std-1e18"]
    assert "init-std-1e18: failed: " in done.stdout
    report = pd.read_csv(tmp_path / "sweep/report.csv")
    assert len(report) == 1 and report["seeds"][0] == 1
    # What is done is left alone, and one point can be fitted by its number.
    before = (tmp_path / "sweep/init-std-0.1/elbo.csv").stat().st_mtime_ns
    done = run(tmp_path, "sweep.py", *words, "--index", 0)
    assert done.returncode == 0 and "1 points, 0 of them left" in done.stdout
    after = (tmp_path / "sweep/init-std-0.1/elbo.csv").stat().st_mtime_ns
    assert before == after
    # Nor is a run of other choices taken for the point's.
    done = run(
        tmp_path, "sweep.py", *words, "--learning-rate", 0.1, "--index", 0
    )
    assert done.returncode == 1
    assert "--learning-rate is 0.1, but the run in" in done.stdout


def start(folder, *words):
    """Starts a sweep as a process group, and returns it."""
    return subprocess.Popen(
        script("sweep.py", *words),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_twice_and_finished_it_is_the_same_sweep(tmp_path):
    words = (*SMALL, "--epochs", 60, *SIX, "--output", "sweep", "--jobs", 2)
    folder = tmp_path / "sweep"

    def count():
        return len(list(folder.glob("*/elbo.csv")))

    process = start(tmp_path, *words)
    wait_for(lambda: count() >= 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = run(tmp_path, "sweep.py", *words, "--report")
    assert done.returncode == 0 and "nothing to compare" in done.stdout
    process = start(tmp_path, *words)
    wait_for(lambda: count() >= 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith(
        "stopped at once; sweep has what was fitted: give the same command to "
        "go on\n"
    )
    done = run(tmp_path, "sweep.py", *words)
    assert done.returncode == 0, done.stdout
    assert set(pd.read_csv(folder / "points.csv")["state"]) == {"complete"}
    report = pd.read_csv(folder / "report.csv")
    assert list(report["run"]) == ["prior normal", "prior laplace"]
    assert list(report["seeds"]) == [3, 3]
    assert (folder / "report.png").exists()
    last = [
        read_history(folder / f"prior-normal_seed-{seed}" / HISTORY)[-1]
        for seed in range(3)
    ]
    error = pd.Series([record["test_elbo"] for record in last]).sem()
    assert report["test_elbo_standard_error"][0] == pytest.approx(error)
    # Each is the run that fit makes by itself.
    alone = (*SMALL, "--epochs", 60, "--prior", "laplace", "--seed", 1)
    run(tmp_path, "fit.py", *alone, "--output", "alone")
    histories = [
        without_timing(read_history(path / HISTORY))
        for path in (folder / "prior-laplace_seed-1", tmp_path / "alone")
    ]
    assert histories[0] == histories[1]
    assert load_vae(folder / "prior-laplace_seed-1").recipe is not None
