"""fit(): minibatch after minibatch, epoch after epoch."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.config import Config
from pyro_vae.data import Dataset, minibatches
from pyro_vae.evaluation import evaluation_batch
from pyro_vae.inference import make_inference
from pyro_vae.randomness import (
    get_random_state,
    random_stream,
    set_random_state,
)
from pyro_vae.schedules import SCHEDULES, best_epoch, has_stalled
from pyro_vae.svi import (
    CompilationError,
    DynamicPairError,
    NonFiniteLossError,
    set_learning_rate,
)
from pyro_vae.traces import Record
from pyro_vae.training.choices import (
    hold_out,
    is_long,
    make_optimizer,
    resolve_device,
    resolve_engine,
    training_images,
)
from pyro_vae.training.recorder import Recorder
from pyro_vae.training.state import State, list_lasting
from pyro_vae.training.stepper import Stepper
from pyro_vae.vae import BEST, VAE

CUDA_INTERVAL = 50  # steps between two looks at the loss


def fit(
    vae: VAE,
    data: Dataset,
    config: Config,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[int, float], Any] = lambda step, elbo: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Fits a VAE by stochastic gradient ascent on the config's objective.

    The order of the images and the noise depend on `config.seed` alone, and
    the global random state is left as it was.

    Args:
        vae: Trained in place, on `config.device`.
        data: Training and test images.
        config: Epochs, batch size, step size, objective, seed and device.
        folder: Where to keep `elbo.csv` and, after every epoch, a checkpoint;
            with early stopping the best weights, too.
        resume: Go on from the folder's checkpoint, if it has one.
        on_step: Called after each step with the number of steps taken in all
            and the minibatch's mean ELBO; on CUDA after every 50th, so that
            the host does not wait for the device. It must draw no random
            numbers, which would be taken from the fit's.
        stop: Asked after each step; if true, the fit saves a checkpoint and
            returns.

    Yields:
        A record for epoch 0, before training, and for each epoch: epoch, step,
        train_elbo (mean over the epoch's minibatches, as they were trained on),
        test_elbo, test_expected_log_likelihood, test_kl, noise_scale, seconds
        (in all) and images_per_second (training); for discrete latents the
        test set's `cluster_scores`. Nats per image. Each ELBO is the true one,
        with the whole KL, whatever the objective; where that is another,
        train_objective is its mean and beta the weight of the KL at the
        epoch's end. With early stopping there is a validation_elbo. A resumed
        fit yields the records of the epochs that were left to do.

    Raises:
        NonFiniteLossError: If the loss is NaN or infinite. The folder's last
            checkpoint stays.
        FileError: If the folder's checkpoint does not fit this VAE.
    """
    run = _Run(vae, data, config, on_step, stop)
    folder = None if folder is None else Path(folder)
    if resume and folder is not None:
        run.restore(folder)
    run.choose_engine()
    while not run.is_done() and not stop():
        if run.train_epoch():
            run.finish_epoch()
        if folder is not None:
            run.save(folder)
        if run.state.position.batch == 0:
            yield run.state.position.records[-1]


class _Run:
    """What one fit holds, and the pieces of its loop."""

    def __init__(
        self,
        vae: VAE,
        data: Dataset,
        config: Config,
        on_step: Callable[[int, float], Any],
        stop: Callable[[], bool],
    ):
        self.device = resolve_device(config.device)
        self.config, self.on_step, self.stop = config, on_step, stop
        self.vae = vae.to(self.device)
        self.vae.zero_grad(set_to_none=True)
        data = data.to(self.device).binarize(config.binarize)
        self.data, validation = hold_out(data, config)
        num_data = len(self.data.train)
        self.num_batches = -(-num_data // config.batch_size)
        self.lasting = list_lasting(config, num_data)
        inference = make_inference(
            config.inference,
            vae,
            float(config.e_steps),
            config.e_learning_rate,
            num_data,
        )
        optim = make_optimizer(config, num_data)
        self.state = State(vae, optim, inference)
        self.stepper = Stepper(vae, config, optim, num_data, self.num_batches)
        self.recorder = Recorder(
            vae, self.data, validation, config, self.stepper.objective
        )

    def restore(self, folder: Path) -> None:
        """Goes back to the folder's checkpoint, if it has one."""
        epochs = self.config.epochs
        self.state.restore(folder, epochs, self.lasting, self.device)

    def choose_engine(self) -> None:
        """Prepares the step and the evaluation for what is left to do."""
        started = time.perf_counter()
        config, position = self.config, self.state.position
        num_steps = config.epochs * self.num_batches
        engine = position.engine
        if config.engine != "auto" or not engine:
            engine = resolve_engine(config, self.vae, num_steps)
        is_compiled = engine == "compiled"
        try:
            # Where a long run's step cannot be compiled, its evaluations can.
            if is_compiled or (config.engine == "auto" and is_long(num_steps)):
                self.compile_evaluation()
            if is_compiled:
                self.stepper.compile()
        except (CompilationError, DynamicPairError) as error:
            self.stepper.fall_back(error)
        position.seconds += time.perf_counter() - started

    def compile_evaluation(self) -> None:
        """Compiles what evaluations and E-steps are made of."""
        if self.vae.inference is None:
            self.recorder.compile()
        else:
            sizes = (self.config.batch_size, evaluation_batch(self.vae))
            self.state.inference.step.compiled_sizes = sizes

    def is_done(self) -> bool:
        """Whether there is no epoch left to do."""
        position, patience = self.state.position, self.config.early_stopping
        if position.epoch >= self.config.epochs:
            return True
        return patience is not None and has_stalled(
            position.records, patience, self.config.warmup
        )

    def train_epoch(self) -> bool:
        """Trains to the end of the epoch; false if it was stopped before."""
        state, position = self.state, self.state.position
        if position.epoch < 0:
            return True  # epoch 0 is the model before training
        epoch = position.epoch + 1
        started = time.perf_counter()
        self.vae.train()
        factor = SCHEDULES[self.config.schedule](epoch, self.config.epochs)
        rate = self.config.learning_rate * factor
        set_learning_rate(state.optim, self.vae.parameters(), rate)
        with (
            random_stream(self.config.seed, epoch, self.device),
            self.stepper.matmul_precision(),
            pyro.validation_enabled(False),
        ):
            images = training_images(self.data, self.config)
            batches = minibatches(len(images), self.config.batch_size)
            for index in itertools.islice(batches, position.batch, None):
                if state.noise is not None:
                    set_random_state(state.noise, self.device)
                    state.noise = None
                index = index.to(self.device)
                self.step(images[index], index)
                if self.stop() and position.batch < self.num_batches:
                    state.noise = get_random_state(self.device)
                    break
        position.elbo_sum = float(position.elbo_sum)  # waits for the device
        position.objective_sum = float(position.objective_sum)
        if not math.isfinite(position.elbo_sum + position.objective_sum):
            raise NonFiniteLossError(
                f"a loss of epoch {epoch} was not finite; that step was not "
                "taken: try a smaller --learning-rate or --init-std"
            )
        seconds = time.perf_counter() - started
        position.epoch_seconds += seconds
        position.seconds += seconds
        return state.noise is None

    def step(self, x: Tensor, index: Tensor) -> None:
        """Takes one step on a minibatch."""
        position = self.state.position
        inferred = self.state.inference.prepare(x, index)
        try:
            value, elbo = self.stepper.step(position.step + 1, x, *inferred)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{error}, in epoch {position.epoch + 1}, at step "
                f"{position.step + 1}: try a smaller --learning-rate or "
                "--init-std, or a larger --noise-scale"
            ) from None
        position.step += 1
        position.batch += 1
        position.objective_sum += value * len(x)
        position.elbo_sum += elbo * len(x)
        if not torch.is_tensor(elbo):
            self.on_step(position.step, elbo)
        elif position.step % CUDA_INTERVAL == 0:
            self.on_step(position.step, elbo.item())

    def finish_epoch(self) -> None:
        """Evaluates, and appends the epoch's record."""
        position = self.state.position
        self.state.position = position.after(self.recorder.record(position))

    def save(self, folder: Path) -> None:
        """Writes the checkpoint, the trace, and the best weights."""
        folder.mkdir(parents=True, exist_ok=True)
        position = self.state.position
        position.engine = self.stepper.engine
        if self.is_best():
            self.vae.save_weights(folder / BEST)
        self.state.save(folder, self.lasting, self.device)

    def is_best(self) -> bool:
        """Whether the epoch just done has the best validation ELBO so far."""
        position = self.state.position
        if self.config.early_stopping is None or position.batch > 0:
            return False
        best = best_epoch(position.records, self.config.warmup)
        return best == position.epoch
