"""A run's folder read back: its model, its choices and its data."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae import VAE, Config
from pyro_vae.checkpoints import read_json
from pyro_vae.data import Dataset, load
from pyro_vae.vae import CONFIG


@dataclass(frozen=True)
class Run:
    """What fit.py left in a folder."""

    vae: VAE
    config: Config
    data: Dataset


def load_run(
    folder: Path, data_dir: Path | None = None, best: bool = False
) -> Run:
    """Reads a run, and says what a reader of its numbers must know.

    Args:
        folder: The run's.
        data_dir: The data sets'.
        best: Take the weights of the best validation ELBO.

    Raises:
        ValueError: If the folder holds no run, or its data are not those that
            it was fitted to.
    """
    about = read_about(folder)
    config = Config.from_dict(about["config"])
    data = load(config.dataset, data_dir).first(config.limit)
    data = data.binarize(config.binarize)
    check_same_data(folder, data)
    warn_of_caveats(folder, about)
    return Run(VAE.load(folder, best), config, data)


def read_about(folder: Path) -> dict[str, Any]:
    """Reads a run's choices and data, or says that the folder holds none."""
    about = read_json(folder / CONFIG)
    if "config" not in about or "data" not in about:
        raise ValueError(
            f"{folder / CONFIG} describes no run; expected one that fit.py "
            "wrote"
        )
    return about


def warn_of_caveats(folder: Path, about: dict[str, Any]) -> None:
    """Prints the run's caveats, as fit.py noted them."""
    for caveat in about.get("caveats", ()):
        print(f"warning: {folder}: {caveat}", file=sys.stderr)


def check_same_data(folder: Path, data: Dataset) -> None:
    """Refuses other data than those of the run in a folder."""
    saved = read_json(folder / CONFIG).get("data")
    if saved != data.describe():
        raise ValueError(
            f"the data are {data.describe()}, but the run in {folder} was on "
            f"{saved}; expected the same"
        )
