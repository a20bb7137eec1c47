"""fit(): the training loop. It yields records; it prints and plots nothing."""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_vae.checkpoints import FileError, load_checkpoint, save_checkpoint
from pyro_vae.clustering import cluster_scores
from pyro_vae.config import Config
from pyro_vae.data import (
    VALIDATION_SEED,
    Dataset,
    draw_binary,
    draw_once,
    minibatches,
)
from pyro_vae.evaluation import (
    Sums,
    assign,
    compile_sums,
    evaluate,
    evaluation_batch,
    evaluation_mode,
    sum_terms,
)
from pyro_vae.inference import Inference, make_inference
from pyro_vae.objectives import AnnealedObjective, choose_objective
from pyro_vae.randomness import (
    get_random_state,
    random_stream,
    set_random_state,
)
from pyro_vae.schedules import (
    NEED_EPOCHS,
    SCHEDULES,
    best_epoch,
    has_stalled,
)
from pyro_vae.svi import (
    CompilationError,
    CompiledSVI,
    DynamicPairError,
    NonFiniteLossError,
    can_compile,
    load_optimizer_state,
    make_svi,
    optimizer_state,
    set_learning_rate,
)
from pyro_vae.traces import TRACE, Record, write_trace
from pyro_vae.vae import BEST, VAE

CUDA_INTERVAL = 50  # steps between two looks at the loss
UNTRAINED = 10_000  # training images in the record before training
COMPILE_FROM = 3000  # steps, from which a run earns its compilation back
# Choices that a resumed run must share for its trace to be the same.
LASTING = (
    "batch_size",
    "learning_rate",
    "schedule",
    "adam_eps",
    "gradient_clip",
    "objective",
    "alpha",
    "num_particles",
    "beta",
    "warmup",
    "free_bits",
    "early_stopping",
    "validation_fraction",
    "gradient",
    "binarize",
    "inference",
    "e_steps",
    "e_learning_rate",
    "seed",
)


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
        if run.position.batch == 0:
            yield run.position.records[-1]


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
        self.vae = vae.to(self.device)
        self.vae.zero_grad(set_to_none=True)
        data = data.to(self.device).binarize(config.binarize)
        self.data, self.validation = hold_out(data, config)
        self.config = config
        self.on_step = on_step
        self.stop = stop
        num_data = len(self.data.train)
        self.optim = make_optimizer(config, num_data)
        self.num_batches = -(-num_data // config.batch_size)
        self.compute_sums: Sums = partial(sum_terms, vae)
        self.inference = self.make_inference()
        self.position = Position()
        self.noise: Tensor | None = None  # the random state within an epoch

    def make_inference(self) -> Inference:
        """The config's way of inference, for this data set."""
        config = self.config
        return make_inference(
            config.inference,
            self.vae,
            float(config.e_steps),
            config.e_learning_rate,
            len(self.data.train),
        )

    def compile_evaluation(self) -> None:
        """Compiles what evaluations and E-steps are made of."""
        size = evaluation_batch(self.vae)
        if self.vae.inference is None:
            self.compute_sums = compile_sums(self.vae, self.data.test)
        else:
            self.inference.step.compiled_sizes = (self.config.batch_size, size)

    def choose_engine(self) -> None:
        """Prepares the step and the evaluation for what is left to do.

        An epoch's last, smaller minibatch steps eagerly: a step in hundreds
        does not pay for a graph of its own.
        """
        started = time.perf_counter()
        config, vae = self.config, self.vae
        num_steps = config.epochs * self.num_batches
        if config.engine != "auto" or not self.position.engine:
            self.position.engine = resolve_engine(config, vae, num_steps)
        clip_norm = None
        if config.gradient_clip is not None:  # the loss is the data set's
            clip_norm = config.gradient_clip * len(self.data.train)
        self.objective = AnnealedObjective(
            config, vae, len(self.data.train), self.num_batches
        )
        pair = (vae.model, vae.guide, self.optim, self.objective.estimator)
        self.svi = self.last_svi = make_svi(*pair, clip_norm)
        is_compiled = self.position.engine == "compiled"
        # A long run whose step cannot be compiled has evaluations that can.
        is_long = config.engine == "auto" and num_steps >= COMPILE_FROM
        try:
            if is_compiled or is_long:
                self.compile_evaluation()
            if is_compiled:
                self.svi = CompiledSVI(
                    *pair, config.matmul_precision, clip_norm=clip_norm
                )
        except (CompilationError, DynamicPairError) as error:
            self.fall_back(error)
        self.position.seconds += time.perf_counter() - started

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """torch's precision of float32 products, for a block.

        A graph for the CPU has its own, for its large products; the small ones
        would only lose time to conversions.
        """
        before = torch.get_float32_matmul_precision()
        if self.position.engine == "eager" or self.device.type == "cuda":
            torch.set_float32_matmul_precision(self.config.matmul_precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def fall_back(self, error: Exception) -> None:
        """Goes on eagerly, unless the compiled engine was asked for."""
        if self.config.engine == "compiled":
            raise error
        warnings.warn(f"{error}; going on eagerly", stacklevel=2)
        self.svi, self.position.engine = self.last_svi, "eager"

    def train_epoch(self) -> bool:
        """Trains to the end of the epoch; false if it was stopped before."""
        position = self.position
        if position.epoch < 0:
            return True  # epoch 0 is the model before training
        epoch = position.epoch + 1
        started = time.perf_counter()
        self.vae.train()
        factor = SCHEDULES[self.config.schedule](epoch, self.config.epochs)
        rate = self.config.learning_rate * factor
        set_learning_rate(self.optim, self.vae.parameters(), rate)
        with (
            random_stream(self.config.seed, epoch, self.device),
            self.matmul_precision(),
            pyro.validation_enabled(False),
        ):
            images = self.training_images()
            batches = minibatches(len(images), self.config.batch_size)
            for index in itertools.islice(batches, position.batch, None):
                if self.noise is not None:
                    set_random_state(self.noise, self.device)
                    self.noise = None
                index = index.to(self.device)
                self.step(images[index], index)
                if self.stop() and position.batch < self.num_batches:
                    self.noise = get_random_state(self.device)
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
        return self.noise is None

    def training_images(self) -> Tensor:
        """Those of an epoch, which may draw them anew."""
        images = self.data.train
        is_dynamic = self.config.binarize == "dynamic"
        return draw_binary(images) if is_dynamic else images

    def step(self, x: Tensor, index: Tensor) -> None:
        """Takes one step on a minibatch."""
        position, num_data = self.position, len(self.data.train)
        is_whole = len(x) == self.config.batch_size
        svi = self.svi if is_whole else self.last_svi
        self.objective.set_weight(position.step + 1)
        inferred = self.inference.prepare(x, index)
        try:
            loss = _take_step(svi, x, num_data, *inferred)
        except (CompilationError, DynamicPairError) as error:
            self.fall_back(error)  # nothing was touched
            loss = _take_step(self.svi, x, num_data, *inferred)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{error}, in epoch {position.epoch + 1}, at step "
                f"{position.step + 1}: try a smaller --learning-rate or "
                "--init-std, or a larger --noise-scale"
            ) from None
        value, elbo = self.objective.read(loss)
        position.step += 1
        position.batch += 1
        position.objective_sum += value * len(x)
        position.elbo_sum += elbo * len(x)
        if not torch.is_tensor(elbo):
            self.on_step(position.step, elbo)
        elif position.step % CUDA_INTERVAL == 0:
            self.on_step(position.step, elbo.item())

    def is_done(self) -> bool:
        """Whether there is no epoch left to do."""
        patience, records = self.config.early_stopping, self.position.records
        if self.position.epoch >= self.config.epochs:
            return True
        return patience is not None and has_stalled(
            records, patience, self.config.warmup
        )

    def finish_epoch(self) -> None:
        """Evaluates, and appends the epoch's record."""
        position, data, seed = self.position, self.data, self.config.seed
        started = time.perf_counter()
        num_data = len(data.train)
        if position.epoch < 0:
            # Images that have no lambda yet cost E-steps, which add up.
            some = None if self.vae.inference is None else UNTRAINED
            with random_stream(seed, 0, self.device):
                images = self.training_images()[:some]
            terms = evaluate(self.vae, images, seed, self.compute_sums)
            train_elbo, images_per_second = terms[0] - terms[1], 0.0
        else:
            train_elbo = position.elbo_sum / num_data
            images_per_second = num_data / position.epoch_seconds
        expected_log_likelihood, kl = evaluate(
            self.vae, data.test, seed, self.compute_sums
        )
        position.seconds += time.perf_counter() - started
        record = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "train_elbo": train_elbo,
            "test_elbo": expected_log_likelihood - kl,
            "test_expected_log_likelihood": expected_log_likelihood,
            "test_kl": kl,
            "noise_scale": _noise_scale(self.vae),
            "seconds": position.seconds,
            "images_per_second": images_per_second,
            **self.other_bounds(),
            **self.cluster_scores(),
        }
        self.position = Position(
            epoch=position.epoch + 1,
            step=position.step,
            seconds=position.seconds,
            records=[*position.records, record],
            engine=position.engine,
        )

    def other_bounds(self) -> Record:
        """The objective, where it is not the ELBO, and the validation ELBO."""
        position, bounds = self.position, {}
        if not self.objective.is_elbo:
            if position.epoch < 0:
                position.objective_sum = self.sum_objective()
            mean = position.objective_sum / len(self.data.train)
            bounds["train_objective"] = mean
            bounds["beta"] = self.objective.weight(position.step)
        if self.validation is not None:
            terms = evaluate(self.vae, self.validation, self.config.seed)
            bounds["validation_elbo"] = terms[0] - terms[1]
        return bounds

    def sum_objective(self) -> float:
        """The objective of the training images, before the first step."""
        self.objective.set_weight(0)
        pair = (self.vae.model, self.vae.guide)
        size = max(1, evaluation_batch(self.vae) // self.config.num_particles)
        with (
            random_stream(self.config.seed, 0, self.device),
            pyro.validation_enabled(False),
            evaluation_mode(self.vae),
        ):
            return -sum(
                self.objective.estimator.loss(*pair, x)
                for x in self.training_images().split(size)
            )

    def cluster_scores(self) -> Record:
        """Of the test images' discrete states, where there are some."""
        if self.vae.num_states == 1:
            return {}
        labels = self.data.test_labels
        return cluster_scores(
            assign(self.vae, self.data.test).numpy(),
            None if labels is None else labels.cpu().numpy(),
        )

    def save(self, folder: Path) -> None:
        """Writes the checkpoint, then the trace."""
        tensors = {
            **_prefixed("vae", self.vae.state_dict()),
            **_prefixed(
                "optim",
                optimizer_state(self.optim, self.vae.named_parameters()),
            ),
        }
        tensors |= _prefixed("local", self.inference.tensors())
        if self.noise is not None:
            tensors["noise"] = self.noise
        folder.mkdir(parents=True, exist_ok=True)
        self.save_best(folder)
        state = {
            "position": asdict(self.position),
            "lasting": self.lasting(),
            "device": self.device.type,
        }
        save_checkpoint(folder, tensors, state)
        write_trace(folder / TRACE, self.position.records)

    def save_best(self, folder: Path) -> None:
        """Writes the weights if the epoch just done is the best so far."""
        position = self.position
        if self.validation is None or position.batch > 0:
            return
        if best_epoch(position.records, self.config.warmup) == position.epoch:
            self.vae.save_weights(folder / BEST)

    def lasting(self) -> dict[str, Any]:
        """What a resumed run must share with the one before."""
        choices = {name: getattr(self.config, name) for name in LASTING}
        if self.config.schedule in NEED_EPOCHS:
            choices["epochs"] = self.config.epochs
        return {**choices, "num_train": len(self.data.train)}

    def check(self, folder: Path, lasting: dict[str, Any]) -> None:
        """Refuses to go on with other choices, or with fewer epochs."""
        for name, now in self.lasting().items():
            before = lasting.get(name, now)
            if now != before:
                raise FileError(
                    f"{name} is {now}, but the run in {folder} has "
                    f"{before}; expected the same"
                )
        if self.config.epochs < self.position.epoch:
            raise FileError(
                f"--epochs is {self.config.epochs}, but the run in {folder} "
                f"has done {self.position.epoch}; expected at least as many"
            )

    def restore(self, folder: Path) -> None:
        """Goes back to the folder's checkpoint, if it has one."""
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
        self.check(folder, state["lasting"])
        load_optimizer_state(
            self.optim,
            self.vae.named_parameters(),
            _unprefixed("optim", tensors),
        )
        self.inference.load(_unprefixed("local", tensors))
        if state["device"] == self.device.type:
            self.noise = tensors.get("noise")
        write_trace(folder / TRACE, self.position.records)


def _take_step(
    svi: SVI | CompiledSVI, x: Tensor, num_data: int, *inferred: Tensor
) -> float | Tensor:
    """Returns the loss: on CUDA, if compiled, as a tensor nobody waits for."""
    if x.is_cuda and isinstance(svi, CompiledSVI):
        return svi.step_tensor(x, num_data, *inferred)
    return svi.step(x, num_data, *inferred)


def hold_out(data: Dataset, config: Config) -> tuple[Dataset, Tensor | None]:
    """Splits off the validation images, if the fit is to stop early."""
    if config.early_stopping is None:
        return data, None
    data, validation = data.hold_out(config.validation_fraction)
    if config.binarize != "none":  # the same ones in every epoch
        validation = draw_once(validation, VALIDATION_SEED)
    return data, validation


def make_optimizer(config: Config, num_data: int) -> pyro.optim.PyroOptim:
    """Makes Adam for a loss that is the sum over `num_data` images."""
    options = {"lr": config.learning_rate}
    if config.adam_eps is not None:
        options["eps"] = config.adam_eps * num_data
    return pyro.optim.Adam(options)


def resolve_engine(config: Config, vae: VAE, num_steps: int) -> str:
    """Returns the engine that a run is to step with.

    `auto` compiles from `COMPILE_FROM` steps on, where the loss can be.
    """
    objective = choose_objective(config, vae)  # refuses what cannot be
    if config.engine != "auto":
        return config.engine
    is_worth_it = num_steps >= COMPILE_FROM and can_compile(objective)
    return "compiled" if is_worth_it else "eager"


def resolve_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is cuda where there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device is {name!r}, which torch cannot use here; expected "
            f"auto, cpu or cuda ({str(error).splitlines()[0]})"
        ) from None
    return device


def _noise_scale(vae: VAE) -> float:
    """The mean over the pixels; NaN where the likelihood has no scale."""
    scale = getattr(vae.likelihood, "scale", None)
    return math.nan if scale is None else scale.mean().item()


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
