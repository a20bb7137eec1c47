"""What one fit holds, and what it does around the training of an epoch."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.config import FitConfig, check_training_memory
from pyro_vae.data import Dataset
from pyro_vae.evaluation import evaluation_batch
from pyro_vae.runs.files import Checkpoint, load_checkpoint
from pyro_vae.runs.folder import RunFolder
from pyro_vae.runs.history import Record
from pyro_vae.runs.models import load_vae
from pyro_vae.svi import (
    CompilationError,
    DynamicPairError,
    NonFiniteLossError,
    Shards,
)
from pyro_vae.training.ending import with_epochs
from pyro_vae.training.labeled import KnownLabels, check_labeled
from pyro_vae.training.objective import AnnealedObjective
from pyro_vae.training.recorder import Recorder
from pyro_vae.training.setup import (
    check_labels,
    check_split,
    hold_out,
    is_long,
    make_optimizer,
    resolve_device,
    resolve_engine,
    start_likelihood,
)
from pyro_vae.training.state import (
    Progress,
    State,
    choices_of_run,
    list_fixed_choices,
)
from pyro_vae.training.stepper import Stepper
from pyro_vae.training.stopping import best_epoch, is_over
from pyro_vae.vae import VAE


class Trainer:
    """The parts of one fit, made once.

    Args:
        vae: The VAE; it is moved to the configured device.
        data: Training and test images.
        config: The data, objective and training.
        shards: The processes that share each minibatch; by default this one
            has all of it.

    Attributes:
        data: The data on the device, binarized, without validation images.
        known: What steps are told of the training images' labels.
        num_data: N, the number of training images.
        num_batches: The number of steps in an epoch.
        engine: What steps are to be taken with: `eager` or `compiled`.
        folder: Where the run is kept, if it is.
    """

    def __init__(
        self,
        vae: VAE,
        data: Dataset,
        config: FitConfig,
        shards: Shards | None = None,
    ):
        self.shards = shards or Shards()
        self.shards.forget()
        check_training_memory(vae, config, len(data.train))
        check_labels(vae, data)
        check_labeled(vae, data, config)
        self.device = resolve_device(config.device)
        self.vae = vae.to(self.device)
        check_split(vae, config, self.shards)
        self.vae.zero_grad(set_to_none=True)
        self._given_data = data
        data = data.to(self.device).binarize(config.binarize)
        self.data, validation = hold_out(data, config)
        self.known = KnownLabels(vae, self.data, config)
        self.num_data = len(self.data.train)
        self.num_batches = -(-self.num_data // config.batch_size)
        self.config = config = with_epochs(config, self.num_batches)
        self.epochs = int(config.epochs or 0)
        start_likelihood(vae, self.data, validation and validation[0])
        vae.inference.start(vae, self.num_data)
        fixed = list_fixed_choices(vae, config, self.num_data)
        objective = AnnealedObjective(
            config, vae, self.num_data, self.num_batches
        )
        optim = make_optimizer(config, self.num_data)
        self.state = State(vae, optim, self.device, fixed)
        self.stepper = Stepper(
            vae, config, objective, optim, self.num_data, self.shards
        )
        self.recorder = Recorder(
            vae, self.data, validation, config, objective, self.shards
        )
        num_steps = self.epochs * self.num_batches
        self.engine = resolve_engine(config, vae, objective, num_steps)
        self.folder: RunFolder | None = None

    @property
    def progress(self) -> Progress:
        """How far the fit has come."""
        return self.state.progress

    def keep_in(
        self,
        folder: RunFolder,
        resume: bool,
        overwrite: bool,
        notes: Mapping[str, Any],
    ) -> None:
        """Keeps the run in a folder, after going back to its checkpoint."""
        if self.shards.rank > 0:  # the first process keeps the run
            if resume:
                self._go_back(folder.path)
            return
        data = self._given_data.binarize(self.config.binarize)
        self.folder = folder
        try:
            if resume:
                folder.reopen(data)
                self._go_back(folder.path)
            else:
                folder.prepare(overwrite)
            choices = choices_of_run(self.vae, self.config)
            folder.describe(self.vae, choices, data, self.device, notes)
            if self.progress.records:  # whatever became of the other files
                self._find_lost_best()
                self._write(checkpoint=None)
        except BaseException:
            self.close()
            raise

    def _go_back(self, folder: Path) -> None:
        """Goes back to a folder's checkpoint, and to the engine of its run."""
        is_first = self.shards.rank == 0
        checkpoint = load_checkpoint(folder) if is_first else None
        checkpoint = self.shards.agree(checkpoint)
        if checkpoint is not None:
            self.state.restore(checkpoint, folder, self.epochs)
        if self.config.engine == "auto" and self.progress.engine:
            self.engine = self.progress.engine

    def _find_lost_best(self) -> None:
        """Takes the best weights from their file, where they were kept there.

        Since version 0.2 they are in the checkpoint.
        """
        patience, state = self.config.early_stopping, self.state
        if patience is None or state.best is not None or self.folder is None:
            return
        epoch = best_epoch(self.progress.records, self.config.warmup)
        if epoch is not None and self.vae.recipe is not None:
            vae = load_vae(self.folder.path, best=True)
            state.best = vae.state_dict()

    @property
    def replaces_run(self) -> bool:
        """Whether an older run is still in the folder, to be replaced."""
        return self.folder is not None and self.folder.replaces_run

    def is_done(self) -> bool:
        """Returns whether there is no epoch left to do."""
        return is_over(self.progress.records, self.config)

    def compile(self) -> None:
        """Prepares compiled steps and evaluations, where they are to be."""
        started = time.perf_counter()
        config = self.config
        is_compiled = self.engine == "compiled"
        num_steps = self.epochs * self.num_batches
        try:
            # Where a long run's step cannot be compiled, its evaluations can.
            is_auto = config.engine == "auto"
            if is_compiled or (is_auto and is_long(num_steps)):
                with self.shards.failing_together():
                    self._compile_evaluation()
            if is_compiled:
                self.stepper.compile_steps()
        except (CompilationError, DynamicPairError) as error:
            self.stepper.fall_back(error)
        self.progress.seconds += time.perf_counter() - started

    def _compile_evaluation(self) -> None:
        """Compiles what evaluations and E-steps are made of."""
        if self.vae.inference.is_amortized:
            self.recorder.compile()
            return
        if not self.shards.is_alone:
            return  # a graph would draw for one process's rows alone
        sizes = (self.config.batch_size, evaluation_batch(self.vae))
        self.vae.inference.compile_for(sizes)

    def settle_sums(self) -> None:
        """Turns the sums into numbers, for which CUDA must be waited for."""
        progress = self.progress
        progress.elbo_sum = float(progress.elbo_sum)
        progress.objective_sum = float(progress.objective_sum)
        if not math.isfinite(progress.elbo_sum + progress.objective_sum):
            raise NonFiniteLossError(
                f"a loss of epoch {progress.epoch + 1} was not finite; that "
                "step was not taken: try a smaller learning_rate or init_std"
            )

    def finish_epoch(self) -> Record:
        """Evaluates, appends the record of the epoch, saves, and returns it.

        Raises:
            NonFiniteLossError: If a number in it is NaN or infinite; nothing
                is written then.
        """
        record = self.shards.agree(self.recorder.record(self.progress))
        for name, value in record.items():
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"{name} of epoch {record['epoch']:.0f} is {value}, which "
                    "is not written: try a smaller learning_rate or init_std"
                )
        self.state.progress = self.progress.after(record)
        self.save()
        return record

    def save(self) -> None:
        """Writes the checkpoint and what follows from it, if they are kept.

        The best weights are kept, too, if the epoch just done is the best.
        """
        self.progress.engine = self.stepper.engine
        if self.folder is None:
            return
        progress, config = self.progress, self.config
        if config.early_stopping is not None and progress.batch == 0:
            best = best_epoch(progress.records, config.warmup)
            if best is not None and best == progress.epoch:
                self.state.keep_best()
        self._write(self.state.checkpoint())

    def close(self) -> None:
        """Lets another fit use the folder."""
        if self.folder is not None:
            self.folder.close()

    def _write(self, checkpoint: Checkpoint | None) -> None:
        assert self.folder is not None
        records, best = self.progress.records, self.state.best
        self.folder.write(self.vae, best, records, checkpoint)
