"""Files that survive a crash: written atomically, checked, never unpickled.

Tensors are kept in safetensors files. What is not a tensor stands in the file's
header as JSON, together with a SHA-256 digest of everything in the file.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyro_vae.files import write_atomically

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and a state


class FileError(ValueError):
    """A file is missing, damaged, or was not written by pyro_vae."""


def format_json(content: dict[str, Any]) -> bytes:
    """Returns a JSON object as the content of a file, indented.

    Raises:
        ValueError: If a number in it is NaN or infinite, which JSON lacks.
    """
    text = json.dumps(content, indent=2, allow_nan=False)
    return text.encode() + b"\n"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object atomically, indented.

    Raises:
        ValueError: If a number in it is NaN or infinite, which JSON lacks.
    """
    write_atomically(path, format_json(content))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileError: If the file is missing or holds something else.
    """
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(
            f"{path} cannot be read as JSON: {error}; expected a file that "
            "pyro_vae wrote"
        ) from None
    if not isinstance(content, dict):
        raise FileError(f"{path} holds no JSON object")
    return content


def pack_tensors(
    tensors: dict[str, Tensor], state: dict[str, Any], kind: str
) -> bytes:
    """Returns tensors and a JSON-able state as one safetensors file.

    Args:
        tensors: Named tensors, on any device.
        state: What else belongs to them.
        kind: The kind of file, such as `model`. `read_tensors` refuses a file
            of another kind.
    """
    # safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
    }
    text = json.dumps(state)
    header = {
        "pyro_vae": kind,
        "state": text,
        "sha256": _digest(tensors, text),
    }
    return save(tensors, metadata=header)


def read_tensors(
    path: Path, kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file that `pack_tensors` made.

    Args:
        path: The file.
        kind: The kind of file that is expected.

    Returns:
        The tensors, on the CPU, and the state.

    Raises:
        FileError: If the file is missing, damaged, or of another kind.
    """
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"{path} is damaged or no safetensors file: {error}"
        ) from None
    if header.get("pyro_vae") != kind:
        raise FileError(
            f"{path} is no pyro_vae {kind}; expected one that pyro_vae wrote"
        )
    text = header.get("state", "")
    if header.get("sha256") != _digest(tensors, text):
        raise FileError(f"{path} is damaged: its SHA-256 digest does not match")
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"the entry 'state' of {path} cannot be read as JSON: {error}"
        ) from None
    if not isinstance(state, dict):
        raise FileError(f"the entry 'state' of {path} holds no JSON object")
    return tensors, state


def is_kind(path: Path, kind: str) -> bool:
    """Returns whether a file says that it is a pyro_vae file of a kind."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("pyro_vae") == kind
    except (SafetensorError, OSError, ValueError):
        return False


def save_checkpoint(
    folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Writes a folder's checkpoint, and keeps the one before it."""
    content = pack_tensors(tensors, state, "checkpoint")
    write_atomically(folder / CHECKPOINT, content, folder / PREVIOUS)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Reads a folder's checkpoint, or the one before it if it is damaged.

    Returns:
        The tensors and the state; None if the folder has no checkpoint.

    Raises:
        FileError: If every checkpoint in the folder is damaged.

    Warns:
        UserWarning: If a checkpoint is damaged, so that the one before it is
            used.
    """
    damage = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            checkpoint = read_tensors(path, "checkpoint")
        except FileError as error:
            damage.append(str(error))
            continue
        for sentence in damage:
            warnings.warn(f"{sentence}; using {path.name}", stacklevel=2)
            # The next one must not take the place of the one that is left.
            (folder / CHECKPOINT).unlink(missing_ok=True)
        return checkpoint
    if damage:
        raise FileError(
            "; ".join(damage) + "; no checkpoint is left to resume from: "
            "start again with overwrite=True"
        )
    return None


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """Returns the SHA-256 of a state and of tensors, with names and types."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
