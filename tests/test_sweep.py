"""Sweeps: the grid, points that resume, fail or wait, and the report."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from pyro_vae.cli.sweep_grid import make_points
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.models import CONFIG, load_vae
from tests.commands import (
    SCRIPTS,
    environment,
    error_of,
    run,
    run_process,
    script,
)
from tests.models import without_timing

SMALL = ["--dataset", "digits", "--limit", "60", "--hidden", "4"]
SMALL += ["--epochs", "2", "--batch-size", "20", "--engine", "eager"]
SMALL += ["--no-figures"]
SEEDS = [*SMALL, "--seed", "0", "1"]
OUTPUT = ["--output", "sweep"]
# Runs sweep.py with fits of which that with seed 1 kills its process.
KILLER = """
import os, runpy, signal, sys
from pyro_vae.cli import sweep, sweep_fits

usual = sweep_fits.fit_point

def fit_point(point, *arguments):
    if point.name == "seed=1":
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(point, *arguments)

if __name__ == "__main__":
    sweep_fits.fit_point = fit_point
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def sweep(folder, *words):
    return run(folder, "sweep.py", *OUTPUT, *words)


def read_report(folder):
    table = pd.read_csv(folder / "sweep" / "report.csv")
    return table.set_index("run")


def trace(folder, name):
    return without_timing(read_history(folder / "sweep" / name / HISTORY))


def test_a_grid_is_the_product_of_its_values():
    points = make_points(
        ["--prior", "normal", "laplace", "--epochs=3", "--seed", "0", "1"]
    )
    assert [point.name for point in points] == [
        "prior=normal,seed=0",
        "prior=normal,seed=1",
        "prior=laplace,seed=0",
        "prior=laplace,seed=1",
    ]
    words = ["--prior", "laplace", "--epochs", "3", "--seed", "0"]
    assert points[2].list_words() == words


def test_flags_of_several_words_and_switches_have_values_too():
    words = "--hidden 8 8 --hidden 4 --learn-prior-scale False True --grey"
    points = make_points(words.split())
    assert [(point.name, " ".join(point.list_words())) for point in points] == [
        ("hidden=8-8,learn-prior-scale=False", "--hidden 8 8 --grey"),
        (
            "hidden=8-8,learn-prior-scale=True",
            "--hidden 8 8 --learn-prior-scale --grey",
        ),
        ("hidden=4,learn-prior-scale=False", "--hidden 4 --grey"),
        (
            "hidden=4,learn-prior-scale=True",
            "--hidden 4 --learn-prior-scale --grey",
        ),
    ]
    (name, other) = (
        point.name for point in make_points(["--dataset", "a/b.npy", "../c"])
    )
    assert (name, other) == ("dataset=a-b.npy", "dataset=..-c")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no flag has several values; expected a grid of some, such as"),
        (["--seed", "0"], "no flag has several values"),
        (["--prior", "--seed", "0", "1"], "--prior has no value; expected at"),
        (["--sed", "0", "1"], "'--sed' is no flag of fit; expected"),
        (["--sed", "0", "1"], "did you mean --seed?"),
        (["normal"], "'normal' is no flag of fit"),
        (["--seed", "0", "--seed", "1"], "--seed is given twice; expected all"),
        (["--seed", "1", "1"], "points of the grid are called 'seed=1'"),
        (["--dataset", "a/b", "a:b"], "are called 'dataset=a-b'"),
        (["--resume", "--seed", "0", "1"], "--resume is no flag of a sweep"),
        (["--grey", "0", "1"], "--grey is '0'; expected no value, or True and"),
        (["--prior", "normal", "foo"], "invalid choice 'foo'"),
        (["--seed", "0", "x"], "invalid literal for int() with base 10: 'x'"),
        (
            ["--prior", "normal", "categorical", "--guide", "normal"],
            "prior=categorical: --guide is 'normal'; expected categorical with",
        ),
        (["--seed", "0", "1", "--jobs", "0"], "--jobs is 0; expected at least"),
        (["--seed", "0", "1", "--index", "2"], "--index is 2; expected one of"),
        (["--report", "--index", "0"], "--report and --index were given"),
        (["--report"], "sweep holds no sweep: there is no file sweep/sweep"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, words, message):
    assert message in error_of(sweep(tmp_path, *words))
    assert not list(tmp_path.glob("sweep/*=*"))


def test_a_point_by_its_index_is_what_fit_makes(tmp_path):
    result = sweep(tmp_path, *SEEDS, "--index", "1")
    assert result.returncode == 0, result.stderr
    assert {p.name for p in tmp_path.glob("sweep/*")} == {
        "seed=1",
        "sweep.json",
    }
    words = ["--output", "sweep/alone", *SMALL, "--seed", "1"]
    assert run(tmp_path, "fit.py", *words).returncode == 0
    assert trace(tmp_path, "seed=1") == trace(tmp_path, "alone")
    assert load_vae(tmp_path / "sweep" / "seed=1").sample(1).shape == (1, 64)
    config = tmp_path / "sweep" / "seed=1" / CONFIG
    before = config.stat().st_mtime_ns
    result = sweep(tmp_path, *SEEDS, "--index", "1")
    assert result.returncode == 0 and "seed=1 is complete" in result.stdout
    assert config.stat().st_mtime_ns == before


def test_a_half_done_point_resumes(tmp_path):
    words = ["--output", "sweep/seed=0", *SMALL, "--seed", "0"]
    short = [*words, "--epochs", "1"]
    assert run(tmp_path, "fit.py", *short).returncode == 0
    first = trace(tmp_path, "seed=0")
    result = sweep(tmp_path, *SEEDS, "--index", "0")
    assert result.returncode == 0, result.stderr
    assert "epoch   0" not in result.stdout and "epoch   2" in result.stdout
    both = trace(tmp_path, "seed=0")
    assert len(first) == 2 and len(both) == 3 and both[:2] == first


def test_a_run_without_its_figures_is_not_complete(tmp_path):
    words = [word for word in SEEDS if word != "--no-figures"]
    figure = tmp_path / "sweep" / "seed=0" / "figures" / "elbo.png"
    sweep(tmp_path, *words, "--index", "0")
    figure.unlink()
    for is_complete in (False, True):
        result = sweep(tmp_path, *words, "--index", "0")
        assert result.returncode == 0 and figure.exists()
        assert ("seed=0 is complete" in result.stdout) == is_complete


def test_a_preset_is_left_out_where_a_point_resumes(tmp_path):
    words = ["--preset", "pyro-example", *SEEDS, "--latent-dim", "2"]
    assert sweep(tmp_path, *words, "--index", "0").returncode == 0
    result = sweep(tmp_path, *words, "--index", "0")
    assert "seed=0 is complete" in result.stdout, result.stderr


def test_another_grid_is_refused_and_more_points_are_not(tmp_path):
    assert sweep(tmp_path, *SEEDS, "--index", "0").returncode == 0
    other = [*SMALL, "--prior", "normal", "laplace"]
    for words in (other, [*SEEDS, "--beta", "2"], [*SMALL, "--seed", "1", "2"]):
        message = error_of(sweep(tmp_path, *words))
        assert "sweep holds another sweep, which has the point" in message
    assert sweep(tmp_path, *SEEDS, "2", "--index", "2").returncode == 0
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert list(content["points"]) == ["seed=0", "seed=1", "seed=2"]
    assert sweep(tmp_path, "--report").returncode == 0
    row = read_report(tmp_path).loc["all"]
    assert (row["seeds"], row["unfinished"]) == (2, 1)


def test_a_report_of_failed_and_unfinished_points(tmp_path):
    words = [*SMALL, "--learning-rate", "0.001", "1e18", "--seed", "0", "1"]
    for index in (0, 1):
        assert sweep(tmp_path, *words, "--index", index).returncode == 0
    failed = sweep(tmp_path, *words, "--index", "2")
    name = "learning-rate=1e18,seed=0"
    assert f"error: {name}: " in failed.stderr
    message = error_of(failed).partition(f"{name}: ")[2]
    kept = (tmp_path / "sweep" / f"{name}.error.txt").read_text()
    assert " ".join(kept.split()) == message

    result = sweep(tmp_path, "--report")
    assert result.returncode == 1  # a point has failed
    assert f"{name}: {message}" in result.stdout
    table = read_report(tmp_path)
    good, bad = (
        table.loc["learning-rate 0.001"],
        table.loc["learning-rate 1e18"],
    )
    assert (good["seeds"], good["unfinished"], good["failed"]) == (2, 0, 0)
    assert (bad["seeds"], bad["unfinished"], bad["failed"]) == (0, 1, 1)
    assert bad["error"] == f"{name}: {message}"
    assert np.isnan(bad["test_elbo"])
    names = [f"learning-rate=0.001,seed={seed}" for seed in (0, 1)]
    last = [trace(tmp_path, n)[-1]["test_elbo"] for n in names]
    assert good["test_elbo"] == pytest.approx(np.mean(last), rel=1e-12)
    error = abs(last[0] - last[1]) / 2
    assert good["test_elbo_standard_error"] == pytest.approx(error, rel=1e-9)
    assert (tmp_path / "sweep" / "report.png").exists()


@pytest.mark.slow  # it starts processes
def test_a_failed_point_does_not_end_the_others(tmp_path):
    words = [*OUTPUT, *SMALL, "--learning-rate", "1e18", "0.001"]
    result = run_process(tmp_path, "sweep.py", *words, "--jobs", "1")
    assert result.returncode == 1 and not result.stderr
    assert "1/2  learning-rate=1e18: failed: " in result.stdout
    assert "2/2  learning-rate=0.001: test ELBO " in result.stdout
    assert list(read_report(tmp_path)["failed"]) == [1, 0]
    log = (tmp_path / "sweep" / "learning-rate=1e18.log").read_text()
    assert "error: " in log and "Traceback" not in log


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_own_point_alone(tmp_path):
    (tmp_path / "driver.py").write_text(KILLER)
    words = [*OUTPUT, *SMALL, "--seed", "0", "1", "2", "3"]
    result = subprocess.run(
        [sys.executable, "driver.py", *script("sweep.py", *words)[1:]],
        cwd=tmp_path,
        env={
            **environment(tmp_path),
            "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    row = read_report(tmp_path).loc["all"]
    assert (row["seeds"], row["failed"]) == (3, 1)
    assert row["error"].startswith("seed=1: its process was killed")


@pytest.mark.slow
def test_two_priors_and_three_seeds_killed_twice_and_finished(tmp_path):
    words = [*OUTPUT, "--prior", "normal", "laplace", "--seed", "0", "1", "2"]
    words += ["30" if word == "2" else word for word in SMALL]
    stop_when(tmp_path, words, signal.SIGKILL, done=1)
    said = stop_when(tmp_path, words, signal.SIGINT, done=3)
    assert said.startswith("stopped at once; sweep holds what is done. To go")
    assert said.count("\n") == 1
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("sweep/*/*")}
    result = run_process(tmp_path, "sweep.py", *words)
    assert result.returncode == 0 and not result.stderr
    complete = int(result.stdout.split()[2])
    assert 3 <= complete < 6
    unchanged = [
        path
        for path, then in before.items()
        if path.exists() and path.stat().st_mtime_ns == then
    ]  # a lock that a killed fit left is gone
    assert len({path.parent for path in unchanged}) >= complete

    table = read_report(tmp_path)
    assert list(table.index) == ["prior normal", "prior laplace"]
    assert (table["seeds"] == 3).all() and (table["epochs"] == 30).all()
    assert not table[["unfinished", "failed"]].any(axis=None)
    for prior, row in zip(("normal", "laplace"), table.iloc, strict=True):
        values = []
        for seed in range(3):
            point = f"prior={prior},seed={seed}"
            choices = ["--prior", prior, "--seed", seed, "--epochs", "30"]
            alone = ["--output", f"sweep/{point} alone", *SMALL, *choices]
            assert run(tmp_path, "fit.py", *alone).returncode == 0
            assert trace(tmp_path, point) == trace(tmp_path, f"{point} alone")
            values.append(trace(tmp_path, point)[-1]["test_elbo"])
        assert row["test_elbo"] == pytest.approx(np.mean(values), rel=1e-12)
        error = np.std(values, ddof=1) / np.sqrt(3)
        assert row["test_elbo_standard_error"] == pytest.approx(error)


def stop_when(folder, words, number, done):
    """Starts a sweep, and stops it when so many points have a last epoch."""
    process = subprocess.Popen(
        script("sweep.py", *words),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while count_done(folder) < done:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    status = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[number]
    assert process.returncode == status
    return said


def count_done(folder):
    return sum(
        path.read_text().splitlines()[-1].startswith("30,")
        for path in folder.glob(f"sweep/*/{HISTORY}")
    )
