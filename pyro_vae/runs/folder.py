"""A run's folder: the names in it, and how a fit writes it."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.files import PARTIAL, remove_partials, write_atomically
from pyro_vae.runs.files import (
    CHECKPOINT,
    PREVIOUS,
    Checkpoint,
    FileError,
    format_json,
    is_kind,
    pack_tensors,
    read_json,
    save_checkpoint,
)
from pyro_vae.runs.history import HISTORY, Record, format_history
from pyro_vae.runs.lock import LOCK, FolderLock
from pyro_vae.runs.manifest import MANIFEST, digest, write_manifest
from pyro_vae.runs.models import BEST, CONFIG, WEIGHTS, pack_vae
from pyro_vae.runs.run import (
    check_same_data,
    describe_provenance,
    find_caveats,
    read_about,
)
from pyro_vae.vae import VAE

FIGURES = "figures"
EVALUATION = "evaluation.csv"
EXPLORER = "explorer.html"
OF_BEST = "best"  # the folder of the best weights' evaluation
# What an old run leaves, in the order in which it is removed: whenever that is
# cut short, what remains is a run, and nothing that can be mistaken for a whole
# one. Its configuration is replaced by the new one's.
FILES = (
    WEIGHTS,
    BEST,
    HISTORY,
    EVALUATION,
    EXPLORER,
    MANIFEST,
    PREVIOUS,
    CHECKPOINT,
)


@dataclass
class RunFolder:
    """The folder that a fit keeps its run in.

    Nothing is written before the first record, or the first stop: until then
    a run that is to be replaced is whole. The checkpoint is the truth; all else
    follows from it, and is written anew by a resumed fit.

    Attributes:
        path: The folder.
        about: What `config.json` says.
        replaces_run: Whether another run is in the folder, to be replaced.
    """

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    _lock: FolderLock | None = field(default=None, repr=False)
    _is_new: bool = field(default=False, repr=False)
    replaces_run: bool = field(default=False, repr=False)

    def prepare(self, overwrite: bool) -> None:
        """Makes the folder, and checks that a new run may be kept in it.

        Args:
            overwrite: Whether to replace the run that is in it.

        Raises:
            ValueError: If the folder is a file or in use, or holds something
                else than a run, or a run that is not to be replaced.
        """
        self._open()
        names = {entry.name for entry in self.path.iterdir()}
        if has_remains_alone(names):
            pass
        elif not overwrite:
            raise ValueError(
                f"{self.path} exists; expected a new folder: go on with "
                "resume=True, replace it with overwrite=True, or name another "
                "output"
            )
        elif not holds_run(self.path):
            raise ValueError(
                f"overwrite=True was given, but {self.path} holds no run; "
                "expected a folder that a fit wrote: name another output"
            )
        else:
            self.replaces_run = True
        self._is_new = True

    def reopen(self, data: Dataset) -> None:
        """Makes the folder if there is none, or checks the run that is in it.

        Args:
            data: Training and test images, binarized as the run's are.

        Raises:
            ValueError: If the folder is a file or in use, or the run was on
                other data.
        """
        self._open()
        if not any((self.path / n).exists() for n in (CHECKPOINT, PREVIOUS)):
            for name in (WEIGHTS, BEST, HISTORY):
                if (self.path / name).exists():
                    raise ValueError(
                        f"resume=True was given, but {self.path} has {name} "
                        "and no checkpoint to go on from; expected a run with "
                        "one: replace this one with overwrite=True, or name "
                        "another output"
                    )
        if not (self.path / CONFIG).exists():
            return
        if "data" in read_json(self.path / CONFIG):  # save_vae writes none
            self.about = read_about(self.path, is_whole=False)
            check_same_data(self.path, self.about, data)

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
            notes: Further JSON-able entries; a resumed run keeps those that it
                had.
        """
        if choices["dataset"] == "auto":  # load_run must find the data
            choices = {**choices, "dataset": data.name}
        if vae.recipe is not None:
            vae.recipe = {**vae.recipe, "config": dict(choices)}
        self.about = {
            **self.about,
            **(vae.recipe or {}),
            **describe_provenance(data),
            "device": str(device),
            "caveats": find_caveats(vae, data),
            **notes,
        }

    def write(
        self,
        vae: VAE,
        best: Mapping[str, Tensor] | None,
        records: list[Record],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Writes the run's files, the manifest last.

        Without a recipe, a VAE that `build` did not make leaves only the
        history and the checkpoint.

        Args:
            vae: The VAE, with its weights after the last record.
            best: The best weights so far, if they are kept.
            records: A record for each epoch.
            checkpoint: What `State.checkpoint` returns; None leaves the one
                that is there.
        """
        if self._lock is not None and not self._lock.is_held():
            raise ValueError(
                f"{self.path} was deleted, or taken by another fit, while this "
                "one ran; expected a folder that nobody else changes: nothing "
                "more is written"
            )
        files = self._list_files(vae, best, records)
        is_first, self._is_new = self._is_new, False
        if is_first:
            self._remove_old()
            self.replaces_run = False
        digests = {name: digest(content) for name, content in files.items()}
        if vae.recipe is not None:
            write_atomically(self.path / CONFIG, files.pop(CONFIG))
        if checkpoint is not None:
            save_checkpoint(self.path, *checkpoint)
        if is_first and vae.recipe is None:
            (self.path / CONFIG).unlink(missing_ok=True)
        for name, content in files.items():
            write_atomically(self.path / name, content)
        write_manifest(self.path, digests)

    def close(self) -> None:
        """Lets another fit use the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _list_files(
        self,
        vae: VAE,
        best: Mapping[str, Tensor] | None,
        records: list[Record],
    ) -> dict[str, bytes]:
        """Returns the contents of the files that follow from a checkpoint."""
        files = {}
        if records:
            files[HISTORY] = format_history(records)
        if vae.recipe is not None:
            files[CONFIG] = format_json(self.about)
            if best is not None:
                files[BEST] = pack_tensors(
                    dict(best), dict(vae.recipe), "model"
                )
            if records:
                files[WEIGHTS] = pack_vae(vae)
        return files

    def _open(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"output is {self.path}, a file; expected a folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        for name in (CONFIG, *FILES):
            remove_partials(self.path / name)

    def _remove_old(self) -> None:
        """Removes another run's files, and what was made of them."""
        for name in (FIGURES, OF_BEST):
            path = self.path / name
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)


def has_remains_alone(names: Iterable[str]) -> bool:
    """Returns whether names are those of a fit that died before it saved."""
    return all(name == LOCK or name.endswith(PARTIAL) for name in names)


def holds_run(folder: Path) -> bool:
    """Returns whether a folder holds what a fit wrote."""
    try:
        read_about(folder, is_whole=False)
        return True
    except FileError:
        pass
    # A VAE that was put together by hand leaves no config.json.
    return any(
        is_kind(folder / name, "checkpoint") for name in (CHECKPOINT, PREVIOUS)
    )
