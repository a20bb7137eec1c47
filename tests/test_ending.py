"""How many epochs a fit has by default, and what is said of its end."""

import math
import re

import pytest

from pyro_vae import Config, build, fit
from pyro_vae.data import load
from pyro_vae.training import find_faults, find_rise
from pyro_vae.training.ending import with_epochs
from tests.commands import run


def history(*elbos, kl=3.0, **others):
    return [
        {"epoch": float(epoch), "test_elbo": elbo, "test_kl": kl, **others}
        for epoch, elbo in enumerate(elbos)
    ]


@pytest.mark.parametrize(
    ("num_images", "epochs"),
    [(60_000, 20), (1_438, 209), (16_001, 20), (1, 1_000), (10**8, 20)],
)
def test_few_images_have_more_epochs(num_images, epochs):
    num_batches = math.ceil(num_images / 128)
    assert with_epochs(Config(), num_batches).epochs == epochs
    given = Config(epochs=3)
    assert with_epochs(given, num_batches) is given


def test_a_run_keeps_the_number_of_its_epochs(tmp_path):
    digits = load("digits").first(256)
    config = Config(hidden=(4,), batch_size=1, engine="eager", device="cpu")
    assert config.epochs is None
    records = fit(build(config, 64), digits, config, tmp_path / "run")
    assert (records.epochs, records.num_batches) == (20, 256)
    next(records)
    del records
    assert '"epochs": 20' in (tmp_path / "run/config.json").read_text()


def test_a_warmup_is_held_against_the_epochs_of_the_data():
    digits = load("digits").first(40)
    config = Config(hidden=(4,), warmup=2_000, early_stopping=3)
    with pytest.raises(
        ValueError, match=r"warmup is 2000.*at most epochs, 1000"
    ):
        fit(build(config, 64), digits, config)


def test_a_rise_is_told_from_noise():
    rising = [10 - 9 * 0.8**n for n in range(9)]
    assert find_rise(history(*rising)) == pytest.approx(0.38, abs=0.01)
    noisy = [5 + (-1) ** n for n in range(40)]
    assert find_rise(history(-9.0, *noisy)) is None
    assert find_rise(history(-9.0, *[5 + n / 1000 for n in range(40)])) is None
    assert find_rise(history(-9.0, *[5 - n / 10 for n in range(40)])) is None
    assert find_rise(history(-9.0, -3.0)) == 6.0
    assert find_rise(history(-9.0)) is None


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (history(-37.0, -12e6), "below that before training, -37.00"),
        (history(-37.0, -9.0, kl=0.01), "KL is 0.01 nats.*collapse"),
        (history(-37.0, 9.0, kl=0.0, components_used=1), "in one state"),
        (history(-37.0, 9.0, 20.0, 18.9), "was 20.00 after epoch 2 .*early_s"),
        (history(-37.0, 9.0, 20.0, 19.1), None),
        (history(-37.0, 9.0, components_used=2), None),
    ],
)
def test_what_is_wrong_is_said(records, says):
    faults = find_faults(records)
    if says is None:
        assert not faults
    else:
        assert len(faults) == 1 and re.search(says, faults[0])


SMALL = (
    *("--dataset", "digits", "--limit", 60, "--hidden", 8, "--no-figures"),
    *("--engine", "eager", "--device", "cpu", "--batch-size", 10),
)


def test_the_command_says_that_it_still_rises_and_how_to_go_on(tmp_path):
    done = run(tmp_path, "fit.py", *SMALL, "--epochs", 4, "--output", "a")
    assert "4 epochs of 6 steps" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert re.search(r"after epoch 4, still rising by \d\S* nats an", last)
    words = last.split("to go on: ")[1].split("--resume")[1].split()
    assert words == ["--output", "a", "--epochs", "8"]
    done = run(tmp_path, "fit.py", "--resume", *words)
    assert done.returncode == 0 and "after epoch 8" in done.stdout
    fast = ("--epochs", 4, "--learning-rate", 0.01)
    cosine = (*SMALL, *fast, "--schedule", "cosine", "--output", "b")
    last = run(tmp_path, "fit.py", *cosine).stdout.splitlines()[-1]
    assert last.endswith("an epoch; start anew with --epochs 8")


def test_the_command_says_what_to_try(tmp_path):
    wild = (*SMALL, "--epochs", 4, "--learning-rate", 30, "--output", "a")
    done = run(tmp_path, "fit.py", *wild)
    assert "warning: the test ELBO, -" in done.stderr
    assert "try a smaller --learning-rate, or --gradient-clip" in done.stderr
    one = (*SMALL, "--epochs", 1, "--prior", "categorical", "--output", "b")
    done = run(tmp_path, "fit.py", *one, "--num-components", 3)
    assert "posterior collapse): try more epochs" in done.stderr
