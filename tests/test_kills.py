"""A fit that is killed at any file operation goes on as if it had not been."""

import builtins
import hashlib
import os
import random
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pyro_vae import (
    MLP,
    VAE,
    Config,
    GaussianLikelihood,
    NormalGuide,
    NormalPrior,
    build,
    fit,
    load_vae,
)
from pyro_vae.data import Dataset, load
from pyro_vae.runs.files import CHECKPOINT, PREVIOUS, FileError
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.lock import LOCK
from pyro_vae.runs.manifest import MANIFEST
from pyro_vae.runs.models import CONFIG
from pyro_vae.runs.run import load_run
from tests.models import without_timing

pytestmark = [
    pytest.mark.slow,  # it forks hundreds of fits
    pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks"),
]

# Every so many file operations a fit is killed; 1 for all of them.
STRIDE = int(os.environ.get("PYRO_VAE_KILL_STRIDE", "29"))
SMALL = {
    "hidden": (6,),
    "epochs": 2,
    "limit": 40,
    "batch_size": 20,
    "dataset": "digits",
    "device": "cpu",
    "engine": "eager",
}
KINDS = {
    "normal": {},
    "laplace": {"prior": "laplace", "schedule": "cosine"},
    "categorical": {"prior": "categorical", "num_components": 3},
    "mixture": {"prior": "mixture", "num_components": 3},
    "stopping": {"early_stopping": 5, "validation_fraction": 0.2},
    "iwae": {"objective": "iwae", "num_particles": 3},
    "local": {"inference": "local"},
    "binary": {"likelihood": "bernoulli", "binarize": "dynamic"},
    "over another": {"guide": "full"},
    "by hand": {},
}
OPERATIONS = [
    (os, "replace"),
    (os, "fsync"),
    (os, "unlink"),
    (os, "rmdir"),
    (Path, "unlink"),
    (builtins, "open"),
]


def make(kind):
    torch.manual_seed(0)
    config = Config(**SMALL, **KINDS[kind])
    if kind != "by hand":
        return build(config, 64, (8, 8)), config
    decoder = MLP(2, 64, (6,), output_activation="sigmoid")
    likelihood = GaussianLikelihood(decoder)
    guide = NormalGuide(MLP(64, 4, (6,)))
    return VAE(NormalPrior(2), likelihood, guide), config


def digest(vae):
    """A digest of the weights."""
    return hashlib.sha256(
        b"".join(
            tensor.numpy().tobytes() for tensor in vae.state_dict().values()
        )
    ).hexdigest()


def in_child(function):
    """Runs a function in a child, and returns its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(operation, folder):
    """Ends this process before a file operation in a folder, by its number.

    Returns:
        A list with the number of operations so far.
    """
    count = [0]
    for owner, name in OPERATIONS:
        original = getattr(owner, name)

        def counted(*args, original=original, name=name, **kwargs):
            writes = name != "open" or "x" in str(args[1:2])
            if writes and (name == "fsync" or str(folder) in str(args[0])):
                count[0] += 1
                if count[0] == operation:
                    os._exit(9)
            return original(*args, **kwargs)

        setattr(owner, name, counted)
    return count


def fit_whole(kind, folder, digits, operation=None):
    """Fits in this process, and writes how many operations there were."""
    vae, config = make(kind)
    data = digits.first(40).binarize(config.binarize)
    count = kill_at(operation, folder)
    overwrite = kind == "over another"
    for record in fit(vae, data, config, folder, overwrite=overwrite):
        with open(f"{folder}.digests", "a") as file:
            file.write(f"{record['epoch']} {digest(vae)}\n")
    Path(f"{folder}.count").write_text(str(count[0]))


def prepare(kind, folder, digits):
    """Puts an older run there, where a fit is to replace one."""
    if kind == "over another":
        vae, config = make("normal")
        list(fit(vae, digits.first(40), config, folder))
        (folder / "evaluation.csv").write_text("of the older run\n")


def check_readers(kind, folder, digests):
    """Whatever can be read belongs together, and is one of the two runs'."""
    epochs = loaded = None
    try:
        epochs = len(read_history(folder / HISTORY)) - 1
    except FileError as error:
        assert str(folder) in str(error)
    try:
        loaded = digest(load_vae(folder))
        load_run(folder)
    except FileError as error:
        assert str(folder) in str(error)
    if epochs is not None and loaded is not None and loaded in digests:
        assert loaded == digests[epochs]
    if kind != "over another":
        assert loaded is None or loaded in digests
    elif loaded is not None and loaded not in digests:  # the older run, whole
        assert (folder / "evaluation.csv").exists()


def resume(kind, folder, digits):
    vae, config = make(kind)
    data = digits.first(40).binarize(config.binarize)
    names = (CONFIG, CHECKPOINT, PREVIOUS)
    has_run = any((folder / name).exists() for name in names)
    if kind == "over another":
        try:
            return list(fit(vae, data, config, folder, resume=True))
        except (FileError, ValueError):  # the older run is still there
            vae, config = make(kind)
            return list(fit(vae, data, config, folder, overwrite=True))
    if not has_run:
        return list(fit(vae, data, config, folder))
    return list(fit(vae, data, config, folder, resume=True))


@dataclass
class Whole:
    """A run that was not killed.

    Attributes:
        folder: Its folder.
        digests: Those of its weights after each epoch.
        operations: How many file operations it took.
        seconds: How long it took.
        digits: The data.
    """

    folder: Path
    digests: list[str]
    operations: int
    seconds: float
    digits: Dataset


def run_whole(kind, folder):
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back
    digits = load("digits")
    prepare(kind, folder, digits)
    started = time.perf_counter()
    assert in_child(lambda: fit_whole(kind, folder, digits)) == 0
    seconds = time.perf_counter() - started
    lines = Path(f"{folder}.digests").read_text().splitlines()
    digests = [line.split()[1] for line in lines]
    operations = int(Path(f"{folder}.count").read_text())
    return Whole(folder, digests, operations, seconds, digits)


def check_killed(kind, folder, whole):
    """Readers see what belongs together, and the run goes on to its end."""
    check_readers(kind, folder, whole.digests)
    resume(kind, folder, whole.digits)
    histories = [
        without_timing(read_history(run / HISTORY))
        for run in (folder, whole.folder)
    ]
    assert histories[0] == histories[1]
    if kind != "by hand":
        assert digest(load_vae(folder)) == whole.digests[-1]
    if kind == "stopping":
        best = [load_vae(run, best=True) for run in (whole.folder, folder)]
        assert digest(best[0]) == digest(best[1])
    kept = {path.name for path in folder.iterdir()}
    # The second to last checkpoint may be one that a kill has saved.
    expected = {path.name for path in whole.folder.iterdir()}
    assert kept - {PREVIOUS} == expected - {PREVIOUS}
    assert MANIFEST in kept and LOCK not in kept


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_a_file_operation(kind, tmp_path):
    whole = run_whole(kind, tmp_path / "whole")
    assert whole.operations > 40
    for operation in range(1, whole.operations + 1, STRIDE):
        folder = tmp_path / f"killed{operation}"
        prepare(kind, folder, whole.digits)
        status = in_child(
            lambda at=operation, to=folder: fit_whole(
                kind, to, whole.digits, at
            )
        )
        assert status == 9, operation
        check_killed(kind, folder, whole)


@pytest.mark.parametrize("kind", ["normal", "stopping", "over another"])
def test_killed_at_a_random_moment(kind, tmp_path):
    whole = run_whole(kind, tmp_path / "whole")
    source = random.Random(0)
    for index in range(max(1, 27 // STRIDE)):
        folder = tmp_path / f"killed{index}"
        prepare(kind, folder, whole.digits)
        child = os.fork()
        if child == 0:
            fit_whole(kind, folder, whole.digits)
            os._exit(0)
        time.sleep(source.uniform(0.0, whole.seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check_killed(kind, folder, whole)
