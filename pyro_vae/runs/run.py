"""A run: where it came from, and reading one back."""

import platform
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyro_vae.config import COUNTS, Config, DataConfig
from pyro_vae.data import Dataset, Options, load, load_fixed_binary
from pyro_vae.parts.likelihoods import BernoulliLikelihood
from pyro_vae.parts.masking import unmasked
from pyro_vae.runs.files import FileError, read_json
from pyro_vae.runs.manifest import check_file
from pyro_vae.runs.models import CONFIG, load_vae
from pyro_vae.vae import VAE

PACKAGES = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy")


def describe_provenance(data: Dataset) -> dict[str, Any]:
    """Returns what tells where a run came from, JSON-able."""
    return {
        "data": data.describe(),
        "reading": data.reading,
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
    likelihood = unmasked(vae.likelihood)
    if isinstance(likelihood, BernoulliLikelihood) and not data.is_binary:
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
    config = read_config(folder)
    data = load_data(config, data_dir)
    check_same_data(folder, about, data)
    warn_of_caveats(folder, about)
    return Run(load_vae(folder, best), config, data)


def load_data(config: DataConfig, data_dir: Path | None = None) -> Dataset:
    """Loads the data of a configuration, cut and binarized as it says.

    Args:
        config: The choices of the data, or all.
        data_dir: The folder of the data sets.

    Raises:
        DataUnavailableError: If they are not on disk and cannot be downloaded.
        DataError: If they are damaged, or cannot be read as images.
    """
    if config.static_binarization is not None:
        data = load_fixed_binary(Path(config.static_binarization))
        return data.first(config.limit)
    likelihood = getattr(config, "likelihood", None)
    options = Options(
        values="counts" if likelihood in COUNTS else "unit",
        scale=config.scale,
        layout=config.layout,
        image_size=config.image_size,
        grey=config.grey,
        label_column=config.label_column,
        test_fraction=config.test_fraction,
        missing=getattr(config, "missing", False),
    )
    data = load(config.dataset, data_dir, options)
    return data.first(config.limit).binarize(config.binarize)


def read_about(folder: Path, is_whole: bool = True) -> dict[str, Any]:
    """Reads `config.json`: a run's choices, its data and its provenance.

    Args:
        folder: The run's folder.
        is_whole: Whether the file must be as the manifest beside it has it; a
            run that is resumed need not be whole.

    Raises:
        FileError: If the folder holds no run, or the file is not as the
            manifest beside it has it.
    """
    path = folder / CONFIG
    if is_whole:
        check_file(path)
    about = read_json(path)
    for name in ("config", "data"):
        if not isinstance(about.get(name), dict):
            raise FileError(
                f"{path} describes no run: it has no object {name!r}; expected "
                "one that a fit wrote"
            )
    caveats = about.get("caveats", [])
    if not isinstance(caveats, list) or not all(
        isinstance(caveat, str) for caveat in caveats
    ):
        raise FileError(
            f"the entry 'caveats' of {path} is no list of sentences; expected "
            "a file that a fit wrote"
        )
    return about


def read_config(folder: Path, is_whole: bool = True) -> Config:
    """Reads a run's choices from its `config.json`.

    Args:
        folder: The run's folder.
        is_whole: As `read_about` has it.

    Raises:
        FileError: If the folder holds no run, or a choice is not valid.
    """
    choices = read_about(folder, is_whole)["config"]
    try:
        return Config.from_dict(choices)
    except Exception as error:  # a crafted entry can be anything
        raise FileError(
            f"the entry 'config' of {folder / CONFIG} is not that of a run: "
            f"{error}"
        ) from None


def warn_of_caveats(folder: Path, about: Mapping[str, Any]) -> None:
    """Warns of a run's caveats, as its fit noted them."""
    for caveat in about.get("caveats", ()):
        warnings.warn(f"{folder}: {caveat}", stacklevel=3)


def check_same_data(
    folder: Path, about: Mapping[str, Any], data: Dataset
) -> None:
    """Refuses other data than those of the run in a folder.

    Args:
        folder: The run's folder.
        about: What its `config.json` says.
        data: The data, binarized as the run's are.

    Raises:
        ValueError: If the data are others.
    """
    saved = about["data"]
    if saved != data.describe():
        raise ValueError(
            f"the data are {data.describe()}, but the run in {folder} was on "
            f"{saved}; expected the same"
        )
