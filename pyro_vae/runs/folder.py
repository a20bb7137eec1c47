"""A run's folder: the names in it, making it, and reading a run back."""

import platform
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pyro_vae.config import Config
from pyro_vae.data import Dataset, load
from pyro_vae.parts.likelihoods import BernoulliLikelihood
from pyro_vae.runs.files import (
    CHECKPOINT,
    PREVIOUS,
    FileError,
    read_json,
    write_json,
)
from pyro_vae.runs.history import HISTORY
from pyro_vae.runs.models import BEST, CONFIG, WEIGHTS, load_vae, save_weights
from pyro_vae.vae import VAE

FIGURES = "figures"
FILES = (CONFIG, HISTORY, WEIGHTS, BEST, CHECKPOINT, PREVIOUS)
PACKAGES = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy")


@dataclass
class RunFolder:
    """The folder that a fit keeps its run in.

    Attributes:
        path: The folder.
        about: What `config.json` says.
    """

    path: Path
    about: dict[str, Any] = field(default_factory=dict)

    def prepare(self, overwrite: bool) -> None:
        """Makes the folder, empty of any run.

        Args:
            overwrite: Whether to remove the run that is in it.

        Raises:
            ValueError: If the folder is a file, or holds something else than a
                run, or a run that is not to be removed.
        """
        path = self.path
        self._check_no_file()
        if path.exists() and any(path.iterdir()):
            if not overwrite:
                raise ValueError(
                    f"{path} exists; expected a new folder: go on with "
                    f"resume=True, replace it with overwrite=True, or name "
                    "another output"
                )
            # A VAE that was put together by hand leaves no config.json.
            if not any((path / name).exists() for name in (CONFIG, CHECKPOINT)):
                raise ValueError(
                    f"overwrite=True was given, but {path} holds no run; "
                    "expected a folder that a fit wrote: name another output"
                )
            for name in FILES:
                (path / name).unlink(missing_ok=True)
            shutil.rmtree(path / FIGURES, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)

    def reopen(self, data: Dataset) -> None:
        """Makes the folder if there is none, or checks the run that is in it.

        Args:
            data: Training and test images, binarized as the run's are.

        Raises:
            ValueError: If the folder is a file, or the run was on other data.
        """
        self._check_no_file()
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / CONFIG).exists():
            check_same_data(self.path, data)

    def describe(
        self,
        vae: VAE,
        choices: Mapping[str, Any],
        data: Dataset,
        device: torch.device,
        notes: Mapping[str, Any],
    ) -> None:
        """Notes what `config.json` is to say of the run.

        Args:
            vae: The VAE; its recipe becomes that of the run.
            choices: All choices of the run.
            data: Training and test images, binarized as the run's are.
            device: The fit's device.
            notes: Further JSON-able entries.
        """
        if choices["dataset"] == "auto":  # load_run must find the data
            choices = {**choices, "dataset": data.name}
        if vae.recipe is not None:
            vae.recipe = {**vae.recipe, "config": dict(choices)}
        self.about = {
            **describe_provenance(data),
            "device": str(device),
            "caveats": find_caveats(vae, data),
            **notes,
        }

    def save_model(self, vae: VAE) -> None:
        """Writes `config.json` and the model, if it can be rebuilt."""
        if vae.recipe is not None:
            write_json(self.path / CONFIG, {**vae.recipe, **self.about})
            save_weights(vae, self.path / WEIGHTS)

    def save_best(self, vae: VAE) -> None:
        """Writes the model as the best so far, if it can be rebuilt."""
        if vae.recipe is not None:
            save_weights(vae, self.path / BEST)

    def _check_no_file(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"output is {self.path}, a file; expected a folder"
            )


def describe_provenance(data: Dataset) -> dict[str, Any]:
    """Returns what tells where a run came from, JSON-able."""
    return {
        "data": data.describe(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "git_commit": find_git_commit(),
    }


def find_git_commit() -> str | None:
    """Returns the commit of this package's repository, if it is in one."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def find_caveats(vae: VAE, data: Dataset) -> list[str]:
    """Returns what a reader of the run's numbers must know, as sentences."""
    if isinstance(vae.likelihood, BernoulliLikelihood) and not data.is_binary:
        return [
            "gray pixels under a Bernoulli are not a likelihood: use "
            "binarize=dynamic, or likelihood=continuous-bernoulli"
        ]
    return []


@dataclass(frozen=True)
class Run:
    """A run, read back from its folder.

    Attributes:
        vae: The fitted VAE, on the CPU.
        config: The choices that made it.
        data: The data that it was fitted to.
    """

    vae: VAE
    config: Config
    data: Dataset


def load_run(
    folder: Path, data_dir: Path | None = None, best: bool = False
) -> Run:
    """Reads a run, and warns of what a reader of its numbers must know.

    Args:
        folder: The run's folder.
        data_dir: The folder of the data sets.
        best: Whether to take the weights of the best validation ELBO.

    Raises:
        FileError: If the folder holds no run.
        ValueError: If the data are not those that it was fitted to.

    Warns:
        UserWarning: The caveats of the run.
    """
    about = read_about(folder)
    config = Config.from_dict(about["config"])
    data = load(config.dataset, data_dir).first(config.limit)
    data = data.binarize(config.binarize)
    check_same_data(folder, data)
    warn_of_caveats(folder, about)
    return Run(load_vae(folder, best), config, data)


def read_about(folder: Path) -> dict[str, Any]:
    """Reads `config.json`: a run's choices, its data and its provenance.

    Raises:
        FileError: If the folder holds no run.
    """
    about = read_json(folder / CONFIG)
    if "config" not in about or "data" not in about:
        raise FileError(
            f"{folder / CONFIG} describes no run; expected one that a fit wrote"
        )
    return about


def warn_of_caveats(folder: Path, about: Mapping[str, Any]) -> None:
    """Warns of a run's caveats, as its fit noted them."""
    for caveat in about.get("caveats", ()):
        warnings.warn(f"{folder}: {caveat}", stacklevel=3)


def check_same_data(folder: Path, data: Dataset) -> None:
    """Refuses other data than those of the run in a folder.

    Raises:
        ValueError: If the data are others.
    """
    saved = read_json(folder / CONFIG).get("data")
    if saved != data.describe():
        raise ValueError(
            f"the data are {data.describe()}, but the run in {folder} was on "
            f"{saved}; expected the same"
        )
