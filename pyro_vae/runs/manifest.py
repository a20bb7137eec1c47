"""Which files belong together: a digest of each, written after all of them.

A fit writes several files after each epoch. The checkpoint alone is enough to
go on, and checks itself; the others are there to be read, and `manifest.json`,
which is written last, tells a reader whether they are of the same epoch and as
they were written.
"""

import hashlib
from pathlib import Path
from typing import Any

from pyro_vae.runs.files import FileError, read_json, write_json

MANIFEST = "manifest.json"


def digest(content: bytes) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, digests: dict[str, str]) -> None:
    """Writes the digests of the files in a folder, by name."""
    write_json(folder / MANIFEST, {"sha256": digests})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the digests of a folder's files; empty if it has no manifest.

    Raises:
        FileError: If the manifest is damaged.
    """
    if not (folder / MANIFEST).exists():  # version 0.1 wrote none
        return {}
    digests = read_json(folder / MANIFEST).get("sha256")
    if not isinstance(digests, dict):
        raise FileError(
            f"{folder / MANIFEST} has no entry 'sha256' with the digests of "
            "files; expected one that a fit wrote: go on with resume=True, "
            "which writes it anew"
        )
    return digests


def check_file(path: Path) -> None:
    """Refuses a file that is not as the folder's manifest has it.

    Raises:
        FileError: If it was changed, or belongs to another epoch or run than
            the files beside it.
    """
    digests = read_manifest(path.parent)
    if not digests or not path.is_file():
        return
    if path.name not in digests:
        raise FileError(
            f"{path} does not belong to the run in its folder, whose "
            f"{MANIFEST} lacks it; expected a file that this run wrote: delete "
            "it"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    if digests[path.name] != digest(content):
        raise FileError(
            f"{path} is not the file that belongs to {MANIFEST} beside it: it "
            "was changed, or the fit was killed while it saved; go on with "
            "resume=True, which writes it anew"
        )
