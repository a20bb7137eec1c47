"""The record of an epoch: how good the model is on the test images."""

import math
import time
from functools import partial

import pyro
from torch import Tensor

from pyro_vae.clustering import cluster_scores
from pyro_vae.config import Config
from pyro_vae.data import Dataset
from pyro_vae.evaluation import (
    Sums,
    assign,
    compile_sums,
    evaluate,
    evaluation_batch,
    evaluation_mode,
    sum_terms,
)
from pyro_vae.objectives import AnnealedObjective
from pyro_vae.randomness import random_stream
from pyro_vae.traces import Record
from pyro_vae.training.choices import training_images
from pyro_vae.training.state import Position
from pyro_vae.vae import VAE

UNTRAINED = 10_000  # training images in the record before training


class Recorder:
    """Evaluates a VAE and makes the records of its trace.

    Args:
        vae: On its device.
        data: Training and test images, there too.
        validation: Images that were held out, or None.
        config: Of the run.
        objective: What it maximises.
    """

    def __init__(
        self,
        vae: VAE,
        data: Dataset,
        validation: Tensor | None,
        config: Config,
        objective: AnnealedObjective,
    ):
        self.vae, self.data, self.validation = vae, data, validation
        self.config, self.objective = config, objective
        self._compute_sums: Sums = partial(sum_terms, vae)

    def compile(self) -> None:
        """Evaluates by a compiled graph from here on.

        Raises:
            CompilationError: If the machine cannot compile.
            DynamicPairError: If the VAE is not static.
        """
        self._compute_sums = compile_sums(self.vae, self.data.test)

    def record(self, position: Position) -> Record:
        """Makes the record of the epoch that ends at a position.

        The time that it takes is added to the position's.
        """
        started = time.perf_counter()
        num_data, images_per_second = len(self.data.train), 0.0
        if position.epoch < 0:
            train_elbo = self._untrained_elbo()
        else:
            train_elbo = position.elbo_sum / num_data
            images_per_second = num_data / position.epoch_seconds
        expected_log_likelihood, kl = self._terms(self.data.test)
        others = self._other_bounds(position) | self._cluster_scores()
        position.seconds += time.perf_counter() - started
        return {
            "epoch": position.epoch + 1,
            "step": position.step,
            "train_elbo": train_elbo,
            "test_elbo": expected_log_likelihood - kl,
            "test_expected_log_likelihood": expected_log_likelihood,
            "test_kl": kl,
            "noise_scale": _noise_scale(self.vae),
            "seconds": position.seconds,
            "images_per_second": images_per_second,
            **others,
        }

    def _terms(self, images: Tensor) -> tuple[float, float]:
        """The means of the ELBO's two terms."""
        seed = self.config.seed
        return evaluate(self.vae, images, seed, self._compute_sums)

    def _untrained_elbo(self) -> float:
        """That of the training images, before the first step."""
        # Images that have no lambda yet cost E-steps, which add up.
        some = None if self.vae.inference is None else UNTRAINED
        with random_stream(self.config.seed, 0, self.data.train.device):
            images = training_images(self.data, self.config)[:some]
        expected_log_likelihood, kl = self._terms(images)
        return expected_log_likelihood - kl

    def _untrained_objective(self) -> float:
        """The sum over the training images, before the first step."""
        self.objective.set_weight(0)
        pair = (self.vae.model, self.vae.guide)
        size = max(1, evaluation_batch(self.vae) // self.config.num_particles)
        with (
            random_stream(self.config.seed, 0, self.data.train.device),
            pyro.validation_enabled(False),
            evaluation_mode(self.vae),
        ):
            images = training_images(self.data, self.config)
            return -sum(
                self.objective.estimator.loss(*pair, x)
                for x in images.split(size)
            )

    def _other_bounds(self, position: Position) -> Record:
        """The objective, where it is not the ELBO, and the validation ELBO."""
        bounds = {}
        if not self.objective.is_elbo:
            total = position.objective_sum
            if position.epoch < 0:
                total = self._untrained_objective()
            bounds["train_objective"] = total / len(self.data.train)
            bounds["beta"] = self.objective.weight(position.step)
        if self.validation is not None:
            expected_log_likelihood, kl = self._terms(self.validation)
            bounds["validation_elbo"] = expected_log_likelihood - kl
        return bounds

    def _cluster_scores(self) -> Record:
        """Of the test images' discrete states, where there are some."""
        if self.vae.num_states == 1:
            return {}
        labels = self.data.test_labels
        return cluster_scores(
            assign(self.vae, self.data.test).numpy(),
            None if labels is None else labels.cpu().numpy(),
        )


def _noise_scale(vae: VAE) -> float:
    """The mean over the pixels; NaN where the likelihood has no scale."""
    scale = getattr(vae.likelihood, "scale", None)
    return math.nan if scale is None else scale.mean().item()
