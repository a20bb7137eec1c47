"""A VAE in a folder: saved with what rebuilds it, and loaded back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.config import Config, build
from pyro_vae.runs.files import (
    FileError,
    read_tensors,
    write_json,
    write_tensors,
)
from pyro_vae.vae import VAE

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BEST = "model.best.safetensors"  # kept by early stopping


def save_vae(
    vae: VAE, folder: str | Path, about: Mapping[str, Any] | None = None
) -> None:
    """Writes a VAE's weights, and `config.json` to read, into a folder.

    Args:
        vae: A VAE that was made by `build`.
        folder: The folder; it is made if it does not exist.
        about: Further JSON-able entries for `config.json`.

    Raises:
        ValueError: If the VAE was not made by `build`, so that no
            configuration could rebuild it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, {**_recipe(vae), **(about or {})})
    save_weights(vae, folder / WEIGHTS)


def save_weights(vae: VAE, path: Path) -> None:
    """Writes a VAE's weights into one file, with what rebuilds it.

    Raises:
        ValueError: If the VAE was not made by `build`.
    """
    write_tensors(path, vae.state_dict(), _recipe(vae), "model")


def load_vae(folder: str | Path, best: bool = False) -> VAE:
    """Rebuilds the VAE that `save_vae` or a fit wrote, on the CPU.

    Args:
        folder: The folder, or a run's.
        best: Whether to take the weights of the best validation ELBO, which a
            fit with early stopping keeps, in place of the last ones.

    Raises:
        FileError: If a file is missing or damaged, or not one of pyro_vae's.
    """
    path = Path(folder) / (BEST if best else WEIGHTS)
    tensors, recipe = read_tensors(path, "model")
    try:
        config = Config.from_dict(recipe["config"])
        image_shape = recipe.get("image_shape")  # files of version 0.1 lack it
        vae = build(config, recipe["data_dim"], image_shape)
        vae.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(
            f"{path} does not describe its own model: {error}"
        ) from None
    return vae


def _recipe(vae: VAE) -> dict[str, Any]:
    if vae.recipe is None:
        raise ValueError(
            "this VAE has no configuration to be rebuilt from; expected one "
            "made by build(config): save its state_dict() yourself"
        )
    return dict(vae.recipe)
