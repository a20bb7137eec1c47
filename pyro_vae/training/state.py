"""What a fit changes, and must keep to go on as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.config import Config, FitConfig, VAEConfig, part_of
from pyro_vae.runs.files import Checkpoint, FileError
from pyro_vae.runs.history import Record
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

    def check(self) -> None:
        """Refuses what no fit has written.

        Raises:
            TypeError: If an attribute is of another kind.
        """
        for entry in fields(self):
            value, usual = getattr(self, entry.name), getattr(USUAL, entry.name)
            kinds = (int, float) if isinstance(usual, float) else type(usual)
            if not isinstance(value, kinds):
                raise TypeError(f"its entry {entry.name!r} is {value!r}")
        for record in self.records:
            for value in dict(record).values():
                if not isinstance(value, int | float):
                    raise TypeError(f"its entry 'records' has {value!r}")

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


USUAL = Progress()  # with an example of each attribute


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
        best: The best weights so far, on the CPU, if early stopping keeps them.
    """

    vae: VAE
    optim: pyro.optim.PyroOptim
    device: torch.device
    fixed_choices: Mapping[str, Any]
    progress: Progress = field(default_factory=Progress)
    random_state: Tensor | None = None
    best: dict[str, Tensor] | None = None

    def checkpoint(self) -> Checkpoint:
        """Returns all of it, to be written by `save_checkpoint`."""
        optim = optimizer_state(self.optim, self.vae.named_parameters())
        tensors = {
            **_prefixed("vae", self.vae.state_dict()),
            **_prefixed("best", self.best or {}),
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
        return tensors, content

    def keep_best(self) -> None:
        """Takes the weights as the best so far."""
        self.best = {
            name: tensor.detach().cpu().clone()
            for name, tensor in self.vae.state_dict().items()
        }

    def restore(
        self, checkpoint: Checkpoint, folder: Path, epochs: int
    ) -> None:
        """Goes back to a checkpoint.

        Args:
            checkpoint: What `load_checkpoint` has returned.
            folder: The run's folder.
            epochs: The number of epochs that the fit is to have.

        Raises:
            FileError: If the checkpoint is not of this VAE, or of a run with
                other choices or more epochs.
        """
        try:
            self._load(*checkpoint)
        except Exception as error:  # a crafted entry can be anything
            raise FileError(
                f"the checkpoint in {folder} is not of this VAE: {error}"
            ) from None
        self._check_same(folder, checkpoint[1]["lasting"], epochs)

    def _load(
        self, tensors: dict[str, Tensor], content: dict[str, Any]
    ) -> None:
        weights = _unprefixed("vae", tensors)
        for name, tensor in self.vae.state_dict().items():
            if name in weights and weights[name].dtype != tensor.dtype:
                raise TypeError(
                    f"its {name} is {weights[name].dtype}, and that of the VAE "
                    f"is {tensor.dtype}; expected the same: use "
                    "torch.set_default_dtype"
                )
        self.vae.load_state_dict(weights)
        self.progress = Progress(**content["position"])
        self.progress.check()
        if not isinstance(content["lasting"], dict):
            raise TypeError("its entry 'lasting' is no object")
        # Older runs have nan as a noise scale where there is none.
        self.progress.records = [
            {key: value for key, value in record.items() if value == value}
            for record in self.progress.records
        ]
        self.best = _unprefixed("best", tensors) or None
        load_optimizer_state(
            self.optim,
            self.vae.named_parameters(),
            _unprefixed("optim", tensors),
        )
        self.vae.inference.load(_unprefixed("local", tensors))
        if content["device"] == self.device.type:
            self.random_state = tensors.get("noise")

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
