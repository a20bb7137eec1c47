"""fit(): minibatch after minibatch, epoch after epoch."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.config import FitConfig, check_describes, find_short_warmup
from pyro_vae.data import Rows, minibatches
from pyro_vae.randomness import (
    get_random_state,
    random_stream,
    set_random_state,
)
from pyro_vae.runs.folder import RunFolder
from pyro_vae.runs.history import Record
from pyro_vae.svi import NonFiniteLossError, Shards, set_learning_rate
from pyro_vae.training.objective import Number
from pyro_vae.training.schedules import SCHEDULES
from pyro_vae.training.setup import read_data, training_images
from pyro_vae.training.trainer import Trainer
from pyro_vae.vae import VAE

CUDA_INTERVAL = 50  # steps between two looks at the loss

OnStep = Callable[[int, float], Any]
Stop = Callable[[], bool]


def fit(
    vae: VAE,
    data: Any,
    config: FitConfig = FitConfig(),  # noqa: B008  # it is frozen
    folder: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep = lambda step, elbo: None,
    stop: Stop = lambda: False,
    notes: Mapping[str, Any] | None = None,
    shards: Shards | None = None,
) -> "Fit":
    """Fits a VAE by stochastic gradient ascent, while its result is iterated.

    Args:
        vae: Trained in place, on `config.device`.
        data: A `Dataset`, or what `to_dataset` makes one of: images.
        config: The data, objective and training. In a whole `Config` the
            choices of the VAE are those that it was built with, or defaults.
        folder: Where to keep the run, so that `load_vae(folder)` works.
        resume: Go on from the folder's checkpoint, if it has one.
        overwrite: Replace the run in the folder.
        on_step: Called after steps with their number and the minibatch's mean
            ELBO. It must draw no random numbers.
        stop: Asked after each step; if true, the fit saves, and ends.
        notes: Further JSON-able entries for the run's `config.json`.
        shards: The processes that share each minibatch, all of which call this.

    Raises:
        ValueError: If the configuration does not go with this VAE or its
            processes, needs too much memory, or the folder is taken.
        FileError: If the folder's checkpoint does not fit this VAE.

    Warns:
        UserWarning: If the warm-up is longer than the run.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite were given; expected one")
    check_describes(config, vae)
    trainer = Trainer(vae, read_data(vae, data, config), config, shards)
    if sentence := find_short_warmup(trainer.config):
        warnings.warn(sentence, stacklevel=2)
    if folder is not None:
        trainer.keep_in(RunFolder(Path(folder)), resume, overwrite, notes or {})
    return Fit(trainer, on_step, stop)


class Fit(Iterator[Record]):
    """A fit under way: an iterator over its records.

    There is a record for epoch 0, before training, and one for each epoch:
    epoch, step, train_elbo (mean over the epoch's minibatches, as they were
    trained on), test_elbo, test_expected_log_likelihood, test_kl, noise_scale,
    seconds (in all) and images_per_second (while training); for discrete
    latents also the `cluster_scores` of the test set. They are in nats per
    image. Each ELBO is the true one, with the whole KL, whatever the objective;
    where that is another, train_objective is its mean and beta the weight of
    the KL at the epoch's end. With early stopping there is a validation_elbo. A
    resumed fit yields the records of the epochs that were left to do.

    The order of the images and the noise depend on the seed alone, and the
    global random state is left as it was. On CUDA `on_step` is called after
    every 50th step, so that the host does not wait for the device.

    A folder holds the choices, the history, a checkpoint after every epoch, the
    model and, with early stopping, the best weights, from the first record on,
    and a manifest with a digest of each. A VAE that `build` did not make leaves
    only the history and the checkpoint. No other fit can use the folder until
    this one has ended.

    Attributes:
        vae: The VAE.
        epochs: The number of epochs.
        num_batches: The number of steps in an epoch.
        engine: What steps are to be taken with: `eager` or `compiled`.

    Raises:
        NonFiniteLossError: While iterating, if the loss is NaN or infinite.
            The folder's last checkpoint stays.
    """

    def __init__(self, trainer: Trainer, on_step: OnStep, stop: Stop):
        self.vae, self.engine = trainer.vae, trainer.engine
        self.epochs, self.num_batches = trainer.epochs, trainer.num_batches
        self._close = trainer.close
        self._records = train(trainer, on_step, stop)
        self._is_started = False

    def __next__(self) -> Record:
        self._is_started = True
        return next(self._records)

    def __del__(self) -> None:
        if not getattr(self, "_is_started", True):
            self._close()
            warnings.warn(
                "fit() was called, but its records were not iterated over, so "
                "that nothing was trained; expected a loop such as "
                "'for record in fit(...)', or list(fit(...))",
                stacklevel=2,
            )


def train(trainer: Trainer, on_step: OnStep, stop: Stop) -> Iterator[Record]:
    """Trains epoch by epoch, and yields the record of each."""
    try:
        trainer.compile()
        asks = trainer.shards.ask_all
        if trainer.progress.is_untrained and not asks(stop()):
            yield trainer.finish_epoch()  # epoch 0 is the model before training
        while not trainer.is_done() and not asks(stop()):
            if train_epoch(trainer, on_step, stop):
                yield trainer.finish_epoch()
            else:
                trainer.save()
        if trainer.progress.is_untrained and not trainer.replaces_run:
            trainer.save()  # stopped before its first record
    finally:
        trainer.close()


def train_epoch(trainer: Trainer, on_step: OnStep, stop: Stop) -> bool:
    """Trains to the end of an epoch; returns false if it was stopped."""
    config, state, progress = trainer.config, trainer.state, trainer.progress
    epoch = progress.epoch + 1
    started = time.perf_counter()
    trainer.vae.train()
    factor = SCHEDULES[config.schedule](epoch, trainer.epochs)
    rate = config.learning_rate * factor
    set_learning_rate(state.optim, trainer.vae.parameters(), rate)
    with (
        random_stream(config.seed, epoch, trainer.device),
        trainer.stepper.matmul_precision(),
        pyro.validation_enabled(False),
    ):
        images = training_images(trainer.data, config)
        first = progress.batch
        batches = minibatches(len(images), config.batch_size, first)
        labeled = list(trainer.known.draw(trainer.num_batches))[first:]
        if state.random_state is not None:  # the run was stopped in here
            set_random_state(state.random_state, trainer.device)
            state.random_state = None
        for index, places in zip(batches, labeled, strict=True):
            index = index.to(trainer.device)
            mine = index[trainer.shards.begin(len(index))]
            given = trainer.known.given(images, mine, places)
            x = read_rows(trainer, images, mine)
            elbo = take_step(trainer, x, index, given)
            tell(progress.step, elbo, on_step)
            is_inside = progress.batch < trainer.num_batches
            if is_stopped(trainer.shards, stop) and is_inside:
                state.random_state = get_random_state(trainer.device)
                break
    trainer.settle_sums()
    seconds = time.perf_counter() - started
    progress.epoch_seconds += seconds
    progress.seconds += seconds
    return progress.batch == trainer.num_batches


def is_stopped(shards: Shards, stop: Stop) -> bool:
    """Returns whether the fit is to stop after the step just taken.

    Several processes stop together, one step later: a step tells all of them
    that one was asked to before it.
    """
    shards.wants_stop = stop()
    return shards.wants_stop if shards.is_alone else shards.is_stopping


def read_rows(trainer: Trainer, images: Tensor | Rows, index: Tensor) -> Tensor:
    """Returns this process's images of a minibatch, `(b, D)`.

    Where they are read from a file, dynamic binarization draws them here.
    """

    def read(number: int) -> Tensor:
        return images[index[:1].expand(number)]

    with trainer.shards.drawing("images", read):
        return images[index]


def infer_rows(
    trainer: Trainer, x: Tensor, index: Tensor
) -> tuple[Tensor, ...]:
    """Returns what model and guide take of this process's images, after N.

    Args:
        trainer: The fit.
        x: This process's images of the minibatch, `(b, D)`.
        index: The places of all of its images in the training set, `(B,)`.
    """
    vae, shards = trainer.vae, trainer.shards
    if shards.is_alone or vae.inference.is_amortized:
        return vae.inference.prepare(vae, x, index)
    mine, inference = shards.part.rows, vae.inference

    def prepare(number: int) -> tuple[Tensor, ...]:
        rows = x[torch.arange(number, device=x.device) % len(x)]
        aside = copy.deepcopy(inference)  # it may keep what it finds
        return aside.prepare(vae, rows, index[:1].expand(number))

    with shards.failing_together(), shards.drawing("inference", prepare):
        inferred = inference.prepare(vae, x, index[mine])
    inference.share(index, mine, shards)
    return inferred


def take_step(
    trainer: Trainer, x: Tensor, index: Tensor, given: Mapping[str, Any]
) -> Number:
    """Takes one step on a minibatch, and returns its mean ELBO.

    Args:
        trainer: The fit.
        x: This process's images of the minibatch, `(b, D)`.
        index: The places of all of its images in the training set, `(B,)`.
        given: What the step is told of this process's labels.
    """
    progress = trainer.progress
    inferred = infer_rows(trainer, x, index)
    try:
        value, elbo = trainer.stepper.step(
            progress.step + 1, x, *inferred, **given
        )
    except NonFiniteLossError as error:
        raise NonFiniteLossError(
            f"{error}, in epoch {progress.epoch + 1}, at step "
            f"{progress.step + 1}: try a smaller learning_rate or "
            "init_std, or a larger noise_scale"
        ) from None
    progress.step += 1
    progress.batch += 1
    progress.objective_sum += value * len(index)
    progress.elbo_sum += elbo * len(index)
    return elbo


def tell(step: int, elbo: Number, on_step: OnStep) -> None:
    """Calls `on_step`; on CUDA seldom, for the host must wait for it."""
    if not isinstance(elbo, Tensor):
        on_step(step, elbo)
    elif step % CUDA_INTERVAL == 0:
        on_step(step, elbo.item())
