"""What the commands make of links, of files that were changed, of sizes."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import Config, build
from pyro_vae import fit as library_fit
from pyro_vae.cli import compare, evaluate, fit
from pyro_vae.cli.flags import CommandLine
from pyro_vae.cli.memory import explain_memory
from pyro_vae.data import load
from pyro_vae.runs.history import HISTORY, read_history, write_history
from pyro_vae.runs.manifest import MANIFEST
from pyro_vae.runs.models import BEST, WEIGHTS
from tests.commands import error_of, run

SMALL = ["--dataset", "digits", "--hidden", "8", "--epochs", "1"]
QUICK = ["--methods", "elbo", "--gap-images", "0", "--limit", "20"]


def make_run(folder, **choices):
    data = load("digits").first(100)
    config = Config(hidden=(8,), dataset="digits", limit=100, **choices)
    list(library_fit(build(config, data.data_dim), data, config, folder))


@pytest.fixture
def linked(tmp_path):
    """A folder elsewhere, and how a name is made a link to it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def link(path):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(elsewhere)

    yield link
    assert not list(elsewhere.iterdir())


def test_a_fit_draws_through_no_link(tmp_path, linked):
    make_run(tmp_path / "run", epochs=1)
    linked(tmp_path / "run" / "figures")
    words = ["--resume", "--output", "run", "--epochs", "2"]
    message = error_of(run(tmp_path, "fit.py", *words))
    assert "run/figures is a link to " in message
    assert message.endswith("no link is followed within a run: remove it")
    assert len(read_history(tmp_path / "run" / HISTORY)) == 2  # at once


@pytest.mark.parametrize("name", ["figures", "best"])
def test_an_evaluation_writes_through_no_link(tmp_path, linked, name):
    make_run(tmp_path / "run", epochs=1)
    (tmp_path / "run" / MANIFEST).unlink()
    (tmp_path / "run" / BEST).write_bytes(
        (tmp_path / "run" / WEIGHTS).read_bytes()
    )
    linked(tmp_path / "run" / name)
    flags = ["--best"] if name == "best" else []
    result = run(tmp_path, "evaluate.py", "run", *QUICK, *flags)
    assert f"run/{name} is a link to " in error_of(result)
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).touch()
    result = run(tmp_path, "evaluate.py", "run", *QUICK, *flags)
    assert f"run/{name} is a file; expected a folder" in error_of(result)


def test_files_that_are_links_are_replaced(tmp_path):
    make_run(tmp_path / "run", epochs=1)
    mine = tmp_path / "mine"
    mine.write_text("years of work")
    (tmp_path / "run" / "figures").mkdir()
    (tmp_path / "results").mkdir()
    names = ["run/evaluation.csv", "run/figures/importance.png"]
    names += ["results/compare.csv", "results/compare.png"]
    for name in names:
        (tmp_path / name).symlink_to(mine)
    result = run(tmp_path, "evaluate.py", "run", *QUICK, "--num-samples", 9)
    assert result.returncode == 0, result.stderr
    result = run(tmp_path, "compare.py", "run")
    assert result.returncode == 0, result.stderr
    assert mine.read_text() == "years of work"
    for name in names:
        path = tmp_path / name
        assert path.is_file() and not path.is_symlink()


CRAFTED = {
    "no object": [1],
    "no config": {"data": {}},
    "config is a list": {"config": [1], "data": {}},
    "unknown choice": {"config": {"units": 3}, "data": {}},
    "wrong type": {"config": {"hidden": {"a": 1}}, "data": {}},
    "null": {"config": {"latent_dim": None}, "data": {}},
    "nested": {"config": {"prior": [[["normal"]]]}, "data": {}},
    "data is a number": {"config": {}, "data": 3},
    "caveats are a number": {"config": {}, "data": {}, "caveats": 3},
}


@pytest.mark.parametrize("content", CRAFTED.values(), ids=CRAFTED)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fit.py", ["--resume", "--output", "run"]),
        ("evaluate.py", ["run"]),
        ("compare.py", ["run"]),
    ],
)
def test_a_changed_config_is_named(tmp_path, name, words, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    message = error_of(run(tmp_path, name, *words))
    assert message.startswith("error: ") and "run/config.json" in message
    assert "--" not in message


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "x" * 200_000, "epoch\n" + '"' * 200_001]
)
@pytest.mark.parametrize("name", ["config.json", HISTORY])
def test_a_file_of_nonsense_is_named(tmp_path, name, content):
    make_run(tmp_path / "run", epochs=0)
    (tmp_path / "run" / MANIFEST).unlink()
    (tmp_path / "run" / name).write_text(content)
    assert f"run/{name}" in error_of(run(tmp_path, "compare.py", "run"))


def test_a_run_that_ended_before_anothers_first_record_is_compared(tmp_path):
    for name, seconds in (("short", [0.1]), ("long", [0.5, 0.9])):
        make_run(tmp_path / name, epochs=len(seconds) - 1)
        records = read_history(tmp_path / name / HISTORY)
        for record, time in zip(records, seconds, strict=True):
            record["seconds"] = time
        (tmp_path / name / MANIFEST).unlink()
        write_history(tmp_path / name / HISTORY, records)
    result = run(tmp_path, "compare.py", "short", "long")
    assert result.returncode == 0, result.stderr
    assert result.stderr == (
        "warning: long had its first record after 0.5 s, when another run had "
        "ended (0.1 s): test_elbo_at_equal_seconds is empty for it\n"
    )
    table = pd.read_csv(tmp_path / "results" / "compare.csv")
    at = table["test_elbo_at_equal_seconds"]
    assert at[0] == table["test_elbo"][0] and np.isnan(at[1])


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([10**15], "000,000 bytes were asked for at once; expected less: make"),
        ([2**62], "more was asked for than any machine can address; expected"),
        ([2**62] * 2, "more was asked for than any machine can address; exp"),
        ([10**30], "more was asked for than any machine can address; expecte"),
    ],
)
def test_a_fit_that_is_too_large_ends_in_a_sentence(
    tmp_path, monkeypatch, shape, said
):
    monkeypatch.setattr(fit, "build", lambda *arguments: torch.empty(shape))
    result = run(tmp_path, "fit.py", *SMALL)
    message = error_of(result)
    assert "error: there is not enough memory: " in message and said in message
    assert message.endswith("make --hidden smaller")
    assert result.stderr.count("\n") == 1


def test_an_evaluation_that_is_too_large_ends_in_a_sentence(tmp_path):
    make_run(tmp_path / "run", epochs=0)
    words = ["--methods", "ais", "--num-samples", 10**15, *QUICK[2:]]
    message = error_of(run(tmp_path, "evaluate.py", "run", *words))
    assert "--num-samples" in message


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        (
            evaluate,
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a "
                "total capacity of 8 GiB\nmore"
            ),
            "there is not enough memory: 20.00 GiB were asked for at once; "
            "expected less: make one of --num-samples, --limit, --gap-images, "
            "--ais-images smaller",
        ),
        (
            fit,
            MemoryError("Unable to allocate 7.28 TiB for an array"),
            "there is not enough memory: 7.28 TiB were asked for at once; exp",
        ),
        (fit, MemoryError(), "there is not enough memory; expected less: make"),
        (
            fit,
            RuntimeError("numel: integer multiplication overflow"),
            "not enough memory: more was asked for than any machine can addr",
        ),
        (fit, RuntimeError("Invalid shape dimension -3"), "enough memory; exp"),
        (fit, OverflowError("int too big"), "a number is too large (int too"),
        (compare, MemoryError(), "expected less: use a machine with more mem"),
    ],
)
def test_an_error_of_memory_is_explained(kind, error, said):
    command = CommandLine(kind.Flags, None, [], "program")
    assert said in explain_memory(error, command)


def test_another_error_is_a_bug_with_a_traceback(tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the shapes do not match")

    command = CommandLine(fit.Flags, None, [], "program")
    error = RuntimeError("the shapes do not match")
    assert explain_memory(error, command) is None
    monkeypatch.setattr(fit, "load_data", fail)
    with pytest.raises(RuntimeError, match="shapes do not"):
        run(tmp_path, "fit.py", *SMALL)


def test_a_run_that_was_killed_while_it_saved_is_resumed(tmp_path):
    folder = tmp_path / "run"
    few = (*SMALL, "--limit", 100, "--no-figures")
    assert run(tmp_path, "fit.py", *few, "--output", folder).returncode == 0
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")  # as of another save
    words = ("--resume", "--output", folder, "--epochs", 2, "--no-figures")
    result = run(tmp_path, "fit.py", *words)
    assert result.returncode == 0, result.stderr
    assert len(read_history(folder / HISTORY)) == 3


def test_a_run_in_double_precision_is_not_resumed_in_single(tmp_path):
    folder = tmp_path / "run"
    make_run(folder, epochs=1)
    words = ("--resume", "--output", folder, "--epochs", 2, "--no-figures")
    assert "expected the same" in error_of(run(tmp_path, "fit.py", *words))
