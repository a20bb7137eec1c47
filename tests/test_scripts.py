"""Every script, run as a user runs it, in a temporary folder."""

import json
import random
import re
import signal
import subprocess
import time
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pyro_vae import Config, build, load_vae
from pyro_vae import fit as library_fit
from pyro_vae.cli.evaluation_table import COLUMNS
from pyro_vae.data import load
from pyro_vae.runs.files import FileError
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.manifest import MANIFEST
from pyro_vae.runs.models import BEST, pack_vae
from tests.commands import (
    SCRIPTS,
    environment,
    error_of,
    run,
    run_process,
    script,
)

FIGURES = {
    f"{name}.png"
    for name in (
        "data",
        "samples",
        "reconstructions",
        "latent",
        "manifold",
        "elbo",
    )
}
SMALL = ["--dataset", "digits", "--hidden", "32", "--batch-size", "200"]
TIMING = ("seconds", "images_per_second")


def fit(folder, *arguments, output="run"):
    result = run(folder, "fit.py", "--output", output, *arguments)
    assert result.returncode == 0, result.stderr
    return result


def trace(folder):
    return [
        {key: value for key, value in record.items() if key not in TIMING}
        for record in read_history(folder / HISTORY)
    ]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit without a word on the data, where there is no MNIST."""
    folder = tmp_path_factory.mktemp("fitted")
    result = run_process(folder, "fit.py", "--epochs", 3, "--prior", "laplace")
    assert result.returncode == 0, result.stderr
    return folder, result


def test_without_mnist_and_network_digits_are_fitted_and_said_so(fitted):
    folder, result = fitted
    assert "mnist is not in" in result.stdout
    assert "going on with scikit-learn's embedded 8 x 8 digits" in result.stdout
    about = json.loads(
        (folder / "results/digits-laplace/config.json").read_text()
    )
    assert about["config"]["dataset"] == about["data"]["name"] == "digits"
    assert about["data"]["num_train"] == 1438


def test_what_a_fit_writes(fitted):
    folder, result = fitted
    output = folder / "results" / "digits-laplace"
    assert {p.name for p in output.iterdir()} == {
        "config.json",
        "elbo.csv",
        "model.safetensors",
        "checkpoint.safetensors",
        "checkpoint.previous.safetensors",
        "manifest.json",
        "figures",
    }
    assert {p.name for p in (output / "figures").iterdir()} == FIGURES
    header = (output / HISTORY).read_text().splitlines()[0]
    assert header == (
        "epoch,step,train_elbo,test_elbo,test_expected_log_likelihood,"
        "test_kl,noise_scale,seconds,images_per_second"
    )
    records = read_history(output / HISTORY)
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    about = json.loads((output / "config.json").read_text())
    assert about["versions"]["torch"] and about["config"]["seed"] == 0
    vae = load_vae(output)
    assert vae.sample(2).shape == (2, 64)
    # Line by line, and no bar, when the output is no terminal.
    assert len(re.findall(r"^epoch ", result.stdout, re.M)) == 4
    assert "%|" not in result.stdout + result.stderr


def test_a_named_data_set_is_never_substituted(tmp_path):
    result = run(tmp_path, "fit.py", "--dataset", "mnist")
    assert "error: mnist is not in" in error_of(result)
    assert not (tmp_path / "results").exists()


def test_an_existing_folder_is_refused_and_overwritten_on_request(tmp_path):
    fit(tmp_path, *SMALL, "--epochs", 2, "--no-figures")
    before = (tmp_path / "run" / HISTORY).read_bytes()
    again = ["--output", "run", *SMALL, "--epochs", 1, "--no-figures"]
    message = error_of(run(tmp_path, "fit.py", *again))
    assert "run exists; expected a new folder: go on with --resume" in message
    assert (tmp_path / "run" / HISTORY).read_bytes() == before
    fit(tmp_path, *SMALL, "--epochs", 1, "--no-figures", "--overwrite")
    assert len(read_history(tmp_path / "run" / HISTORY)) == 2
    assert not (tmp_path / "run" / "figures").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    again = [*SMALL, "--output", "mine", "--overwrite"]
    assert "mine holds no run" in error_of(run(tmp_path, "fit.py", *again))
    assert (tmp_path / "mine" / "thesis.tex").exists()


EVERY_FLAG = {  # in runs whose choices go together
    "counts": {
        "dataset": "counts.csv",
        "likelihood": "poisson",
        "library": "learned",
        "label-column": "kind",
        "test-fraction": 0.3,
    },
    "conditional": {
        "dataset": "labeled.npz",
        "condition": "labels",
        "scale": 2.0,
        "layout": "channels-last",
    },
    "a few labels": {
        "dataset": "labeled.npz",
        "scale": 4.0,
        "prior": "mixture",
        "num-components": 3,
        "labeled": 6,
        "label-weight": 2.0,
    },
    "pictures": {"dataset": "pictures", "grey": True, "image-size": [4, 4]},
    "holes": {"dataset": "holes.csv", "missing": True, "scale": "columns"},
    "drawn by another": {
        "static-binarization": "binarized_mnist_train.npy",
        "likelihood": "bernoulli",
    },
    "continuous": {
        "prior": "student-t",
        "prior-scale": 0.8,
        "learn-prior-scale": True,
        "prior-df": 3.0,
        "guide": "flow",
        "num-couplings": 2,
        "coupling-units": 6,
        "noise": "diagonal",
        "noise-scale": 0.4,
        "latent-dim": 3,
        "hidden": [9, 7],
        "activation": "tanh",
        "init-std": 0.2,
        "dataset": "own.npy",
        "limit": 40,
        "epochs": 1,
        "batch-size": 16,
        "learning-rate": 0.01,
        "schedule": "exponential",
        "adam-eps": 1e-6,
        "gradient-clip": 50.0,
        "objective": "renyi",
        "alpha": 0.3,
        "num-particles": 2,
        "beta": 0.5,
        "warmup": 1,
        "early-stopping": 3,
        "validation-fraction": 0.2,
        "engine": "eager",
        "matmul-precision": "high",
        "seed": 5,
        "device": "cpu",
    },
    "discrete": {
        "prior": "categorical",
        "num-components": 3,
        "num-variables": 2,
        "prior-weights": "learned",
        "gradient": "gumbel-softmax",
        "temperature": 0.7,
        "straight-through": True,
    },
    "binary": {
        "likelihood": "bernoulli",
        "binarize": "static",
        "network": "conv",
        "channels": [3],
        "gradient": "score-function-baseline",
        "baseline": "learned",
    },
    "local": {
        "inference": "local",
        "e-steps": 3,
        "e-learning-rate": 0.02,
    },
    "free": {"free-bits": 0.1, "engine": "compiled"},
}


def test_every_flag_is_in_a_run():
    flags = {field.name.replace("_", "-") for field in fields(Config)}
    assert flags == set().union(*EVERY_FLAG.values())


def write_own_data(folder):
    rng = np.random.default_rng(0)
    images, labels = rng.random((60, 4, 6)), np.arange(60) % 3
    np.save(folder / "own.npy", images)
    np.savez(folder / "labeled.npz", images=images * 2, labels=labels)
    table = pd.DataFrame(rng.poisson(3.0, (60, 4)))
    table.assign(kind=labels).to_csv(folder / "counts.csv", index=False)
    table.mask(rng.random((60, 4)) < 0.3).to_csv(
        folder / "holes.csv", index=False
    )
    (folder / "pictures").mkdir()
    for number in range(10):
        color = rng.integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(color).save(folder / "pictures" / f"{number}.png")
    for part in ("train", "valid", "test"):
        binary = rng.integers(0, 2, (8, 784))
        np.save(folder / f"binarized_mnist_{part}.npy", binary)


@pytest.mark.parametrize("name", EVERY_FLAG)
def test_every_flag_is_reached_and_kept(tmp_path, name):
    own = {"dataset": "own.npy", "epochs": 1, "hidden": [5]}
    flags = {**own, **EVERY_FLAG[name]}
    write_own_data(tmp_path)
    if "static-binarization" in flags:
        del flags["dataset"]
    arguments = []
    for flag, value in flags.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{flag}", *(v for v in values if v is not True)]
    fit(tmp_path, *arguments)
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    saved = {key.replace("_", "-"): v for key, v in about["config"].items()}
    assert saved.items() >= flags.items()
    for flag in EVERY_FLAG[name]:
        default = getattr(Config(), flag.replace("-", "_"))
        assert flags[flag] != default, flag
    figures = {p.name for p in (tmp_path / "run" / "figures").iterdir()}
    assert figures >= {"data.png", "samples.png", "elbo.png"}
    assert ("imputations.png" in figures) == ("missing" in flags)
    record = read_history(tmp_path / "run" / HISTORY)[1]
    if name != "continuous":
        return
    assert figures == FIGURES
    means = [about["data"].pop(f"{part}_mean") for part in ("train", "test")]
    assert all(0.4 < mean < 0.6 for mean in means)
    assert about["data"] == {
        "name": "own.npy",
        "num_train": 40,
        "num_test": 12,
        "image_shape": [4, 6],
    }
    assert record["step"] == 2 and record["beta"] == 0.5
    assert load_vae(tmp_path / "run", best=True).sample(1).shape == (1, 24)


def test_a_preset_is_shown_and_overridden_and_resumed(tmp_path):
    arguments = ["--epochs", 1, "--dataset", "digits", "--no-figures"]
    arguments += ["--binarize", "dynamic", "--beta", 2]  # beside the preset's
    result = fit(tmp_path, "--preset", "pyro-example", *arguments)
    assert "preset pyro-example: Pyro, examples/vae/vae.py" in result.stdout
    for line in (
        "hidden = (400,)",
        "epochs = 1, instead of 101",
        "binarize = dynamic, instead of none",
        "beta = 2.0, instead of 1.0",
    ):
        assert f"  {line}\n" in result.stdout
    assert "  seed = " not in result.stdout
    again = ["--resume", "--output", "run", "--no-figures", "--epochs", 2]
    result = run(tmp_path, "fit.py", *again)
    assert result.returncode == 0, result.stderr
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["preset"] == "pyro-example"
    assert about["config"]["epochs"] == 2 and about["config"]["beta"] == 2
    message = error_of(run(tmp_path, "fit.py", *again, "--preset", "stats271"))
    assert "expected --resume alone, which keeps" in message
    message = error_of(run(tmp_path, "fit.py", *again, "--overwrite"))
    assert "--resume and --overwrite were given; expected one" in message


def test_early_stopping_says_which_epoch_was_the_best(tmp_path):
    arguments = [*SMALL, "--early-stopping", 1, "--epochs", 60]
    result = fit(tmp_path, *arguments, "--learning-rate", 0.1)
    records = read_history(tmp_path / "run" / HISTORY)
    assert 2 < len(records) < 61
    best = records[-2]
    assert (
        f"kept in model.best.safetensors: test ELBO {best['test_elbo']:.2f} "
        f"nats per image after epoch {best['epoch']:.0f}"
    ) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "-3"], "--epochs is -3; expected a whole number"),
        (["--epochs", "many"], "Error parsing --epochs"),
        (["--prior", "gauss"], "invalid choice 'gauss' for argument"),
        (
            ["--prior", "categorical", "--guide", "normal"],
            "--guide is 'normal'; expected categorical with --prior categori",
        ),
        (
            ["--prior", "laplace", "--gradient", "gumbel-softmax"],
            "--gradient is 'gumbel-softmax'; expected one of pathwise, score",
        ),
        (
            ["--prior", "categorical", "--num-variables", "4"],
            "there are 10000 configurations of the discrete latents; expected",
        ),
        (
            ["--likelihood", "bernoulli", "--noise", "fixed"],
            "--noise is 'fixed'; expected shared (leave it out): it goes",
        ),
        (
            ["--network", "conv", "--channels", "4", "4", "4", "4"],
            "images are of 8 x 8 pixels; expected sides that are",
        ),
        (
            ["--prior", "categorical", "--objective", "iwae"],
            "--objective is 'iwae'; expected elbo with --gradient enumerated",
        ),
        (["--preset", "vae"], "invalid choice 'vae' for argument"),
        (["--epoch", "3"], "Unrecognized options: --epoch"),
        (["--dataset", "no.npz"], "error: there is no file no.npz"),
        (["--device", "gpu"], "--device is 'gpu', which torch cannot use"),
        (["--resume"], "--resume was given without --output"),
        (["--resume", "--output", "no"], "there is no file no/config.json"),
        (["--resume", "--overwrite"], "--resume was given without --output"),
        (["--noise-scale", "0.001"], "0.001; expected it above 0.01"),
        (["--learning-rate", "0"], "--learning-rate is 0.0; expected a posit"),
    ],
)
def test_bad_flags_end_in_a_sentence_and_leave_nothing(
    tmp_path, arguments, message
):
    if "--dataset" not in arguments:
        arguments = ["--dataset", "digits", *arguments]
    assert message in error_of(run(tmp_path, "fit.py", *arguments))
    assert not list(tmp_path.iterdir())


def test_a_fit_that_explodes_ends_in_a_sentence(tmp_path):
    arguments = [*SMALL, "--learning-rate", 1e18, "--output", "run"]
    message = error_of(run(tmp_path, "fit.py", *arguments))
    assert "the loss is nan at site 'z' of the guide" in message
    assert read_history(tmp_path / "run" / HISTORY)[0]["epoch"] == 0


def test_resuming_checks_the_choices(tmp_path):
    fit(tmp_path, *SMALL, "--epochs", 1, "--seed", 3, "--no-figures")
    resume = ["--resume", "--output", "run", "--no-figures"]
    message = error_of(run(tmp_path, "fit.py", *resume, "--seed", 4))
    assert "--seed is 4, but the run in run has 3; expected the same" in message
    result = run(tmp_path, "fit.py", *resume, "--epochs", 3)
    assert result.returncode == 0
    fit(tmp_path, *SMALL, "--epochs", 3, "--seed", 3, output="whole")
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


def start(folder, *arguments):
    return subprocess.Popen(
        script("fit.py", "--output", "run", *arguments),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_epoch(process, epoch):
    for line in process.stdout:
        if line.startswith(f"epoch {epoch:3d}"):
            return
    raise AssertionError("the fit ended too soon")


def test_killed_at_random_moments_and_resumed_it_is_the_same_run(tmp_path):
    arguments = [*SMALL, "--epochs", 30, "--no-figures"]
    fit(tmp_path, *arguments, output="whole")
    process = start(tmp_path, *arguments)
    for epoch in (3, 15):
        wait_for_epoch(process, epoch)
        time.sleep(random.Random(epoch).uniform(0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        try:  # at any moment it is readable, or said to be saved in part
            read_history(tmp_path / "run" / HISTORY)
        except FileError as error:
            assert "killed while it saved; go on with" in str(error)
        process = start(tmp_path, "--resume", "--no-figures")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    eager = ["--engine", "eager"]  # however long the run
    arguments = [*SMALL, *eager, "--epochs", 100_000, "--no-figures"]
    process = start(tmp_path, *arguments)
    wait_for_epoch(process, 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    path = SCRIPTS / "fit.py"
    assert f"To go on: python {path} --resume --output run" in output
    assert "Traceback" not in output
    reached = int(read_history(tmp_path / "run" / HISTORY)[-1]["epoch"])
    result = run(
        tmp_path,
        "fit.py",
        *("--resume", "--output", "run", "--no-figures"),
        *("--epochs", reached + 2),
    )
    assert result.returncode == 0, result.stderr
    arguments[-2] = reached + 2
    fit(tmp_path, *arguments, output="whole")
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--prior", "categorical", "--num-variables", "2"],
            {"usage", "components"},
        ),
        (
            ["--prior", "mixture", "--num-components", "3"],
            {"usage", "components", "latent", "manifold"},
        ),
    ],
    ids=["two variables", "mixture"],
)
def test_a_discrete_fit_is_drawn_and_resumed(tmp_path, arguments, expected):
    fit(tmp_path, *SMALL, *arguments, "--epochs", "1")
    drawn = {p.stem for p in (tmp_path / "run" / "figures").iterdir()}
    assert drawn == expected | {"data", "samples", "reconstructions", "elbo"}
    result = run(
        tmp_path, "fit.py", "--resume", "--output", "run", "--epochs", "2"
    )
    assert result.returncode == 0, result.stderr
    records = read_history(tmp_path / "run" / HISTORY)
    assert len(records) == 3 and 1 <= records[-1]["components_used"] <= 100
    assert load_vae(tmp_path / "run").assign(load("digits").test).max() > 0


GRAY = "gray pixels under a Bernoulli are not a likelihood"


@pytest.mark.parametrize(
    ("prior", "binarize", "is_labeled"),
    [("vamp", "none", True), ("flow", "dynamic", False)],
)
def test_a_bernoulli_fit_is_labeled_for_what_it_is(
    tmp_path, prior, binarize, is_labeled
):
    arguments = ["--prior", prior, "--guide", "flow", "--network", "conv"]
    arguments += ["--likelihood", "bernoulli", "--binarize", binarize]
    result = fit(tmp_path, *SMALL, *arguments, "--epochs", "1")
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (GRAY in "".join(about["caveats"])) is is_labeled
    assert (GRAY in result.stderr) is is_labeled
    assert (GRAY in result.stdout.splitlines()[-1]) is is_labeled
    assert {p.name for p in (tmp_path / "run" / "figures").iterdir()} == FIGURES
    result = run(
        tmp_path, "fit.py", "--resume", "--output", "run", "--epochs", "2"
    )
    assert result.returncode == 0, result.stderr
    assert len(read_history(tmp_path / "run" / HISTORY)) == 3
    assert load_vae(tmp_path / "run").sample(2).shape == (2, 64)


def test_evaluate(tmp_path):
    make_run(tmp_path, "continuous", limit=50)
    few = ("--num-samples", 50, "--gap-images", 12)
    methods = ("--methods", "elbo", "importance", "quadrature")
    flags = (*few, *methods, "--per-image")
    result = run(tmp_path, "evaluate.py", "continuous", *flags)
    assert result.returncode == 0, result.stderr
    assert "quadrature: 50 images ..." in result.stderr  # not a terminal
    table = pd.read_csv(tmp_path / "continuous" / "evaluation.csv")
    assert tuple(table.columns) == COLUMNS and (table["epoch"] == 2).all()
    summary = table[table["image"].isna()].set_index("what")["value"]
    assert summary["elbo"] < summary["importance"] < summary["quadrature"] + 1
    for what in ("active units", "mmd squared", "kl of z2"):
        assert np.isfinite(summary[what])
    kl = summary["kl(q, posterior) by quadrature"]
    assert summary["gaps together"] == pytest.approx(kl, abs=0.3)
    exact = table[(table["what"] == "quadrature") & table["image"].notna()]
    assert len(exact) == 50 and exact["tolerance"].max() <= 1e-2
    sampled = table[(table["what"] == "importance") & table["image"].notna()]
    assert (sampled["sampling_error"] > 0).all()
    assert (sampled["effective_sample_size"] > 1).all()
    assert exact["sampling_error"].isna().all()
    assert sampled["tolerance"].isna().all()
    assert summary["quadrature"] == pytest.approx(exact["value"].mean())
    drawn = {p.name for p in (tmp_path / "continuous" / "figures").iterdir()}
    assert drawn == {"gaps.png", "posteriors.png", "importance.png"}
    make_run(tmp_path, "discrete", prior="categorical", num_components=4)
    exact = ("--methods", "exact", "elbo", "--no-figures", "--output", "out")
    result = run(tmp_path, "evaluate.py", "discrete", *few, *exact)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "out" / "evaluation.csv").set_index("what")
    assert table["value"]["elbo"] < table["value"]["exact"]
    wrong = ("--methods", "quadrature")
    result = run(tmp_path, "evaluate.py", "discrete", *wrong)
    assert "expected one or two continuous ones" in error_of(result)
    result = run(tmp_path, "evaluate.py", "discrete", "--num-samples", 0)
    assert "--num-samples is 0; expected at least 1" in error_of(result)


def test_an_evaluation_is_by_the_bound_and_what_is_most_exact(tmp_path):
    make_run(tmp_path, "run")
    few = ("--limit", 5, "--gap-images", 0, "--no-figures")
    result = run(tmp_path, "evaluate.py", "run", *few)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "run" / "evaluation.csv")
    assert table["what"][:3].tolist() == ["elbo", "quadrature", "active units"]


def test_a_runs_figures_are_drawn_again(tmp_path):
    make_run(tmp_path, "run")
    result = run(tmp_path, "evaluate.py", "run", "--redraw")
    assert result.returncode == 0, result.stderr
    assert {p.name for p in (tmp_path / "run" / "figures").iterdir()} == FIGURES
    assert not (tmp_path / "run" / "evaluation.csv").exists()


def test_an_evaluation_of_older_weights_is_warned_of(tmp_path):
    fit(tmp_path, *SMALL, "--epochs", 2, "--no-figures")
    few = ("--limit", 5, "--methods", "elbo", "--gap-images", 0, "--no-figures")
    run(tmp_path, "evaluate.py", "run", *few)
    assert not run(tmp_path, "compare.py", "run").stderr
    more = ("--resume", "--output", "run", "--epochs", 3, "--no-figures")
    older = "run/evaluation.csv and the figures of that evaluation are of "
    for name, words in (("fit.py", more), ("compare.py", ["run"])):
        result = run(tmp_path, name, *words)
        assert result.returncode == 0, result.stderr
        found = "epoch 2, and the run's weights are of epoch 3"
        assert f"warning: {older}{found}" in result.stderr
    run(tmp_path, "evaluate.py", "run", *few)
    assert not run(tmp_path, "compare.py", "run").stderr
    (tmp_path / "run" / "evaluation.csv").write_text("what,error\nelbo,1\n")
    result = run(tmp_path, "compare.py", "run")
    assert f"{older}an epoch that it does not say" in result.stderr


def test_the_best_weights_are_evaluated_with_the_runs_caveat(tmp_path):
    arguments = ["--likelihood", "bernoulli", "--early-stopping", 1]
    fit(tmp_path, *SMALL, *arguments, "--epochs", 2, "--no-figures")
    white = load_vae(tmp_path / "run", best=True)
    torch.nn.init.constant_(white.likelihood.decoder.layers[-1].bias, 9.0)
    (tmp_path / "run" / BEST).write_bytes(pack_vae(white))
    (tmp_path / "run" / MANIFEST).unlink()
    few = ("--methods", "elbo", "--gap-images", 0, "--no-figures")
    found = {}
    for folder, flags in (("run", ()), ("run/best", ("--best",))):
        result = run(tmp_path, "evaluate.py", "run", *few, *flags)
        assert result.returncode == 0, result.stderr
        assert f"warning: run: {GRAY}" in result.stderr
        table = pd.read_csv(tmp_path / folder / "evaluation.csv")
        found[folder] = table.set_index("what")["value"]["elbo"]
    assert found["run/best"] < found["run"] - 100
    result = run(tmp_path, "compare.py", "run")
    assert f"warning: run: {GRAY}" in result.stderr


def test_help_explains_each_flag():
    help_text = run(SCRIPTS, "fit.py", "--help").stdout
    for flag, words in {
        "--learning-rate": "Step size of Adam",
        "--noise-scale": "in units of x",
        "--batch-size": "(default: 128)",
        "--no-figures": "Write no figures",
    }.items():
        assert flag in help_text and words in help_text


def make_run(folder, name, limit=None, **choices):
    """What fit.py writes, without a process of its own."""
    data = load("digits").first(limit)
    config = Config(
        hidden=(8,),
        dataset="digits",
        limit=limit,
        epochs=2,
        batch_size=500,
        **choices,
    )
    vae = build(config, data.data_dim)
    list(library_fit(vae, data, config, folder / name))


def test_compare(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, f"normal-{seed}", seed=seed)
    make_run(tmp_path, "laplace", prior="laplace")
    runs = ["normal-0", "normal-1", "laplace"]
    result = run(tmp_path, "compare.py", *runs, "--output", "out")
    assert result.returncode == 0 and not result.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "compare.csv",
        "compare.png",
    }
    rows = (tmp_path / "out" / "compare.csv").read_text().splitlines()
    assert rows[0].startswith("run,seeds,epochs,test_elbo,")
    assert rows[1].startswith("prior normal,2,2,")
    assert rows[2].startswith("prior laplace,1,2,")
    final = [
        read_history(tmp_path / f"normal-{seed}" / HISTORY)[-1]["test_elbo"]
        for seed in (0, 1)
    ]
    mean = float(rows[1].split(",")[3])
    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert table["equal_seconds"].nunique() == 1
    assert (table["equal_seconds"] <= table["seconds"] + 1e-9).all()
    at = table["test_elbo_at_equal_seconds"]
    assert (at <= table["test_elbo"] + 1e-9).all() and at.notna().all()
    assert mean == pytest.approx(np.mean(final), rel=1e-12)


def test_comparing_what_differs_is_warned_of(tmp_path):
    make_run(tmp_path, "all")
    make_run(tmp_path, "few", limit=200)
    make_run(tmp_path, "fixed", noise="fixed")
    result = run(tmp_path, "compare.py", "all", "few", "fixed")
    assert result.returncode == 0
    assert "are of different data" in result.stderr
    assert "have different likelihoods (shared noise and fixed" in result.stderr
    make_run(tmp_path, "gray", likelihood="continuous-bernoulli")
    path = tmp_path / "all" / "config.json"
    older = json.loads(path.read_text())
    del older["config"]["likelihood"], older["config"]["binarize"]
    path.write_text(json.dumps(older))
    (tmp_path / "all" / MANIFEST).unlink()  # older runs have none
    result = run(tmp_path, "compare.py", "all", "gray")
    assert "(shared noise and continuous-bernoulli)" in result.stderr
    assert (tmp_path / "results" / "compare.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run was named; expected the folders of some"),
        (["nowhere"], "there is no file nowhere/config.json"),
    ],
)
def test_compare_refuses_what_is_no_run(tmp_path, arguments, message):
    assert message in error_of(run(tmp_path, "compare.py", *arguments))
