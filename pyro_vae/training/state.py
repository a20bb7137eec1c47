"""What a fit changes, and must keep to go on as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.config import Config, FitConfig, VAEConfig, part_of
from pyro_vae.runs.files import FileError, load_checkpoint, save_checkpoint
from pyro_vae.runs.history import HISTORY, Record, write_history
from pyro_vae.svi import load_optimizer_state, optimizer_state
from pyro_vae.training.schedules import NEED_EPOCHS
from pyro_vae.vae import VAE

# Choices that a resumed run may make anew, since its history stays the same.
RESUMABLE = ("epochs", "device", "engine", "matmul_precision")
OF_THE_DATA = ("dataset", "limit")  # the data themselves are compared


@dataclass
class Progress:
    """How far a fit has come.

    Attributes:
        epoch: The last completed epoch; -1 before the record of epoch 0.
        step: The number of optimization steps taken.
        batch: The number of minibatches done in the epoch under way.
        elbo_sum: The sum of their images' ELBO, in nats.
        objective_sum: The sum of their images' objective, in nats.
        epoch_seconds: The time spent training in the epoch under way.
        seconds: The time spent in the fit.
        records: One record for each completed epoch.
        engine: The engine that steps are taken with, also in a resumed run.
    """

    epoch: int = -1
    step: int = 0
    batch: int = 0
    elbo_sum: float | Tensor = 0.0
    objective_sum: float | Tensor = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)
    engine: str = ""

    @property
    def is_untrained(self) -> bool:
        """Whether the record of epoch 0 is still to be made."""
        return self.epoch < 0

    def after(self, record: Record) -> "Progress":
        """Returns the progress at the start of the epoch after a record."""
        return Progress(
            epoch=self.epoch + 1,
            step=self.step,
            seconds=self.seconds,
            records=[*self.records, record],
            engine=self.engine,
        )


@dataclass
class State:
    """The state of a fit, which a checkpoint holds.

    Attributes:
        vae: The VAE, on the fit's device.
        optim: The optimizer of its parameters.
        device: The fit's device.
        fixed_choices: What a resumed run must share with the run before.
        progress: How far the fit has come.
        random_state: The state of the device's generator within an epoch; None
            between epochs, each of which has a random stream of its own.
    """

    vae: VAE
    optim: pyro.optim.PyroOptim
    device: torch.device
    fixed_choices: Mapping[str, Any]
    progress: Progress = field(default_factory=Progress)
    random_state: Tensor | None = None

    def save(self, folder: Path) -> None:
        """Writes the checkpoint, then the history, into an existing folder."""
        optim = optimizer_state(self.optim, self.vae.named_parameters())
        tensors = {
            **_prefixed("vae", self.vae.state_dict()),
            **_prefixed("optim", optim),
            **_prefixed("local", self.vae.inference.tensors()),
        }
        if self.random_state is not None:
            tensors["noise"] = self.random_state
        # The keys are those of the checkpoints of all versions.
        content = {
            "position": asdict(self.progress),
            "lasting": dict(self.fixed_choices),
            "device": self.device.type,
        }
        save_checkpoint(folder, tensors, content)
        if self.progress.records:
            write_history(folder / HISTORY, self.progress.records)

    def restore(self, folder: Path, epochs: int) -> None:
        """Goes back to the folder's checkpoint, if it has one.

        Args:
            folder: The run's folder.
            epochs: The number of epochs that the fit is to have.

        Raises:
            FileError: If the checkpoint is not of this VAE, or of a run with
                other choices or more epochs.
        """
        checkpoint = load_checkpoint(folder)
        if checkpoint is None:
            return
        tensors, content = checkpoint
        try:
            self.vae.load_state_dict(_unprefixed("vae", tensors))
            self.progress = Progress(**content["position"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise FileError(
                f"the checkpoint in {folder} is not of this VAE: {error}"
            ) from None
        self._check_same(folder, content["lasting"], epochs)
        load_optimizer_state(
            self.optim,
            self.vae.named_parameters(),
            _unprefixed("optim", tensors),
        )
        self.vae.inference.load(_unprefixed("local", tensors))
        if content["device"] == self.device.type:
            self.random_state = tensors.get("noise")
        if self.progress.records:
            write_history(folder / HISTORY, self.progress.records)

    def _check_same(
        self, folder: Path, before: Mapping[str, Any], epochs: int
    ) -> None:
        for name, now in self.fixed_choices.items():
            if before.get(name, now) != now:
                raise FileError(
                    f"{name} is {now}, but the run in {folder} has "
                    f"{before[name]}; expected the same"
                )
        if epochs < self.progress.epoch:
            raise FileError(
                f"epochs is {epochs}, but the run in {folder} has done "
                f"{self.progress.epoch}; expected at least as many"
            )


def list_fixed_choices(
    vae: VAE, config: FitConfig, num_train: int
) -> dict[str, Any]:
    """Returns what a resumed run must share with the run before, JSON-able."""
    choices = choices_of_run(vae, config)
    free = {*RESUMABLE, *OF_THE_DATA}
    if config.schedule in NEED_EPOCHS:
        free.remove("epochs")
    fixed = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in choices.items()
        if name not in free
    }
    return {**fixed, "num_train": num_train}


def choices_of_run(vae: VAE, config: FitConfig) -> dict[str, Any]:
    """Returns all choices of a run: the VAE's own, and those of the fit.

    Raises:
        ValueError: If the fit's do not go with those that the VAE was built by.
    """
    own, ours = asdict(VAEConfig()), part_of(config, FitConfig)
    if vae.recipe is None:
        return {**own, **ours}
    own = {name: vae.recipe["config"].get(name, own[name]) for name in own}
    return asdict(Config.from_dict({**own, **ours}))


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
