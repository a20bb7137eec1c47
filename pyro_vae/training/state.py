"""What a fit changes, and must keep to go on as if it had never stopped."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.checkpoints import FileError, load_checkpoint, save_checkpoint
from pyro_vae.config import Config
from pyro_vae.inference import Inference
from pyro_vae.schedules import NEED_EPOCHS
from pyro_vae.svi import load_optimizer_state, optimizer_state
from pyro_vae.traces import TRACE, Record, write_trace
from pyro_vae.vae import VAE

# Choices that a resumed run may make anew, its trace being the same.
RESUMABLE = ("epochs", "device", "engine", "matmul_precision")
OF_THE_DATA = ("dataset", "limit")  # which are given as they are


@dataclass
class Position:
    """Where a fit stands.

    Attributes:
        epoch: The last epoch completed; -1 before the first record.
        step: Optimisation steps taken.
        batch: Minibatches done of the epoch under way.
        elbo_sum: The sum of its images' ELBO so far, in nats.
        objective_sum: The sum of what was maximised.
        epoch_seconds: The time spent training in it.
        seconds: The time spent in the fit.
        records: One for each epoch completed.
        engine: What steps are taken with, the same in a resumed run.
    """

    epoch: int = -1
    step: int = 0
    batch: int = 0
    elbo_sum: float = 0.0
    objective_sum: float = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)
    engine: str = ""

    def after(self, record: Record) -> "Position":
        """Where it stands when the record of the epoch under way is made."""
        return Position(
            epoch=self.epoch + 1,
            step=self.step,
            seconds=self.seconds,
            records=[*self.records, record],
            engine=self.engine,
        )


@dataclass
class State:
    """A fit's state.

    Attributes:
        vae: The VAE, on the fit's device.
        optim: The optimiser of its parameters.
        inference: Where q's parameters come from.
        position: Where the fit stands.
        noise: The random state within an epoch; None between epochs.
    """

    vae: VAE
    optim: pyro.optim.PyroOptim
    inference: Inference
    position: Position = field(default_factory=Position)
    noise: Tensor | None = None

    def save(
        self, folder: Path, lasting: dict[str, Any], device: torch.device
    ) -> None:
        """Writes the checkpoint, then the trace.

        Args:
            folder: Exists.
            lasting: What a resumed run must share, see `list_lasting`.
            device: The fit's.
        """
        optim = optimizer_state(self.optim, self.vae.named_parameters())
        tensors = {
            **_prefixed("vae", self.vae.state_dict()),
            **_prefixed("optim", optim),
            **_prefixed("local", self.inference.tensors()),
        }
        if self.noise is not None:
            tensors["noise"] = self.noise
        state = {
            "position": asdict(self.position),
            "lasting": lasting,
            "device": device.type,
        }
        save_checkpoint(folder, tensors, state)
        write_trace(folder / TRACE, self.position.records)

    def restore(
        self,
        folder: Path,
        epochs: int,
        lasting: dict[str, Any],
        device: torch.device,
    ) -> None:
        """Goes back to the folder's checkpoint, if it has one.

        Args:
            folder: The run's.
            epochs: That the fit is to have.
            lasting: What it must share with the run, see `list_lasting`.
            device: The fit's.

        Raises:
            FileError: If the checkpoint is not of this VAE, or of a run with
                other choices or more epochs.
        """
        checkpoint = load_checkpoint(folder)
        if checkpoint is None:
            return
        tensors, state = checkpoint
        try:
            self.vae.load_state_dict(_unprefixed("vae", tensors))
            self.position = Position(**state["position"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise FileError(
                f"the checkpoint in {folder} is not of this VAE: {error}"
            ) from None
        for name, now in lasting.items():
            before = state["lasting"].get(name, now)
            if now != before:
                raise FileError(
                    f"{name} is {now}, but the run in {folder} has "
                    f"{before}; expected the same"
                )
        if epochs < self.position.epoch:
            raise FileError(
                f"--epochs is {epochs}, but the run in {folder} has done "
                f"{self.position.epoch}; expected at least as many"
            )
        load_optimizer_state(
            self.optim,
            self.vae.named_parameters(),
            _unprefixed("optim", tensors),
        )
        self.inference.load(_unprefixed("local", tensors))
        if state["device"] == device.type:
            self.noise = tensors.get("noise")
        write_trace(folder / TRACE, self.position.records)


def list_lasting(config: Config, num_train: int) -> dict[str, Any]:
    """What a resumed run must share with the one before, JSON-able."""
    choices = asdict(config)
    free = set(RESUMABLE + OF_THE_DATA)
    if config.schedule in NEED_EPOCHS:
        free.remove("epochs")
    lasting = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in choices.items()
        if name not in free
    }
    return {**lasting, "num_train": num_train}


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
