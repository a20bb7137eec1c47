"""A VAE in a folder: saved with what rebuilds it, and loaded back."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyro_vae.config import Config, VAEConfig, build, part_of
from pyro_vae.files import write_atomically
from pyro_vae.runs.files import (
    FileError,
    format_json,
    pack_tensors,
    read_tensors,
)
from pyro_vae.runs.manifest import (
    MANIFEST,
    check_file,
    digest,
    write_manifest,
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
    files = {
        CONFIG: format_json({**recipe_of(vae), **(about or {})}),
        WEIGHTS: pack_vae(vae),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    digests = {name: digest(content) for name, content in files.items()}
    write_manifest(folder, digests)


def pack_vae(vae: VAE) -> bytes:
    """Returns a VAE's weights as one file, with what rebuilds it.

    Raises:
        ValueError: If the VAE was not made by `build`.
    """
    return pack_tensors(vae.state_dict(), recipe_of(vae), "model")


def load_vae(folder: str | Path, best: bool = False) -> VAE:
    """Rebuilds the VAE that `save_vae` or a fit wrote, on the CPU.

    Args:
        folder: The folder, or a run's.
        best: Whether to take the weights of the best validation ELBO, which a
            fit with early stopping keeps, in place of the last ones.

    Raises:
        FileError: If a file is missing or damaged, or not one of pyro_vae's,
            or not as the manifest beside it has it.
    """
    path = Path(folder) / (BEST if best else WEIGHTS)
    check_file(path)
    tensors, recipe = read_tensors(path, "model")
    try:
        config = Config.from_dict(recipe["config"])
        image_shape = recipe.get("image_shape")  # files of version 0.1 lack it
        # The choices of the fit have no say in whether there is room for it.
        choices = VAEConfig(**part_of(config, VAEConfig))
        labels = {k: v for k, v in recipe.items() if k == "num_labels"}
        vae = build(choices, recipe["data_dim"], image_shape, **labels)
        vae.recipe = {**recipe_of(vae), "config": asdict(config)}
        vae.load_state_dict(tensors)
    except Exception as error:  # a crafted entry can be anything
        raise FileError(
            f"{path} does not describe its own model: {_in_words(error)}"
        ) from None
    return vae


def recipe_of(vae: VAE) -> dict[str, Any]:
    """Returns what rebuilds a VAE, JSON-able.

    Raises:
        ValueError: If the VAE was not made by `build`.
    """
    if vae.recipe is None:
        raise ValueError(
            "this VAE has no configuration to be rebuilt from; expected one "
            "made by build(config): save its state_dict() yourself"
        )
    return dict(vae.recipe)


def _in_words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no entry {error}"
    return " ".join(str(error).split())
