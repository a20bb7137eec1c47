"""The record of an epoch: how good the model is on the test images."""

import time
from functools import partial
from typing import Any

import pyro
from torch import Tensor

from pyro_vae.config import FitConfig
from pyro_vae.data import Dataset, Rows
from pyro_vae.data.rows import count_few
from pyro_vae.evaluation import (
    Sums,
    assign,
    compile_sums,
    evaluation_batch,
    evaluation_mode,
    has_numbered_states,
    mean_elbo_terms,
    place_labels,
    sum_terms,
    zip_batches,
)
from pyro_vae.evaluation.clustering import cluster_scores
from pyro_vae.parts.likelihoods import bits_per_dimension
from pyro_vae.parts.masking import unmasked
from pyro_vae.randomness import random_stream
from pyro_vae.runs.history import Record
from pyro_vae.svi import Shards
from pyro_vae.training.objective import AnnealedObjective
from pyro_vae.training.setup import Labeled, training_images
from pyro_vae.training.state import Progress
from pyro_vae.vae import VAE

UNTRAINED = 10_000  # training images in the record before training
# The columns of what a likelihood may have of noise.
NOISE = {
    "scale": "noise_scale",
    "df": "degrees_of_freedom",
    "inverse_dispersion": "inverse_dispersion",
}


class Recorder:
    """Evaluates a VAE and makes the records of its history.

    Args:
        vae: The VAE, on its device.
        data: Training and test images, on the same device.
        validation: Images that were held out, and their labels; or None.
        config: The run's configuration.
        objective: What the run maximizes.
        shards: The processes that share the evaluation.
    """

    def __init__(
        self,
        vae: VAE,
        data: Dataset,
        validation: Labeled | None,
        config: FitConfig,
        objective: AnnealedObjective,
        shards: Shards,
    ):
        self.vae, self.data, self.validation = vae, data, validation
        self.config, self.objective = config, objective
        self.shards = shards
        self._compute_sums: Sums = partial(sum_terms, vae)

    def compile(self) -> None:
        """Evaluates by a compiled graph from here on.

        Raises:
            CompilationError: If the machine cannot compile.
            DynamicPairError: If the VAE is not static.
        """
        labels = place_labels(self.vae, self.data.test_labels)
        self._compute_sums = compile_sums(self.vae, self.data.test, labels)

    def record(self, progress: Progress) -> Record:
        """Makes the record of the epoch that has just ended.

        The time that it takes is added to `progress.seconds`.
        """
        started = time.perf_counter()
        num_data, images_per_second = len(self.data.train), 0.0
        if progress.is_untrained:
            train_elbo = self._untrained_elbo()
        else:
            train_elbo = float(progress.elbo_sum) / num_data
            images_per_second = num_data / progress.epoch_seconds
        expected_log_likelihood, kl = self._terms(
            self.data.test, self.data.test_labels
        )
        others = self._other_bounds(progress) | self._cluster_scores()
        progress.seconds += time.perf_counter() - started
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_elbo": train_elbo,
            "test_elbo": expected_log_likelihood - kl,
            "test_expected_log_likelihood": expected_log_likelihood,
            "test_kl": kl,
            **self._bits(expected_log_likelihood - kl),
            **_noise(self.vae),
            "seconds": progress.seconds,
            "images_per_second": images_per_second,
            **others,
        }

    def _terms(
        self, images: Tensor, labels: Tensor | None
    ) -> tuple[float, float]:
        """Returns the means of the ELBO's two terms, in nats."""
        return mean_elbo_terms(
            self.vae,
            images,
            self.config.seed,
            self._compute_sums,
            place_labels(self.vae, labels),
            self.shards,
        )

    def _bits(self, elbo: float) -> Record:
        """Returns minus the test ELBO in bits per dimension, if it has any."""
        bits = bits_per_dimension(self.vae.likelihood, elbo, self.data.test)
        return {} if bits is None else {"test_bits_per_dimension": bits}

    def _untrained_elbo(self) -> float:
        """Returns the training images' mean ELBO before the first step."""
        # E-steps for images without a lambda of their own take long.
        some = None if self.vae.inference.is_amortized else UNTRAINED
        with random_stream(self.config.seed, 0, self.data.train.device):
            images = self._untrained_images()[:some]
        labels = self.data.train_labels
        labels = None if labels is None else labels[: len(images)]
        expected_log_likelihood, kl = self._terms(images, labels)
        return expected_log_likelihood - kl

    def _untrained_images(self) -> Tensor:
        """Draws the training images of the record before the first step.

        They are all, or a few where they are not in memory.
        """
        images = training_images(self.data, self.config)
        if isinstance(images, Rows):
            return images[: count_few(images)].to_tensor()
        return images

    def _untrained_objective(self) -> float:
        """Returns the mean objective before the first step, in nats."""
        self.objective.set_weight(0)
        pair = (self.vae.model, self.vae.guide)
        # Pyro declares no loss of an ELBO; each of its estimators has one.
        estimator: Any = self.objective.estimator
        size = max(1, evaluation_batch(self.vae) // self.config.num_particles)
        with (
            random_stream(self.config.seed, 0, self.data.train.device),
            pyro.validation_enabled(False),
            evaluation_mode(self.vae),
        ):
            images = self._untrained_images()
            labels = place_labels(self.vae, self.data.train_labels)
            labels = None if labels is None else labels[: len(images)]
            losses = [
                estimator.loss(*pair, x, **({"labels": y[0]} if y else {}))
                for x, *y in zip_batches(images, labels, size)
            ]
        return -sum(losses) / len(images)

    def _other_bounds(self, progress: Progress) -> Record:
        """Returns the validation ELBO, and the objective if it is another."""
        bounds: Record = {}
        if not self.objective.is_elbo:
            mean = float(progress.objective_sum) / len(self.data.train)
            if progress.is_untrained:
                mean = self._untrained_objective()
            bounds["train_objective"] = mean
            bounds["beta"] = self.objective.weight(progress.step)
        if self.validation is not None:
            expected_log_likelihood, kl = self._terms(*self.validation)
            bounds["validation_elbo"] = expected_log_likelihood - kl
        return bounds

    def _cluster_scores(self) -> Record:
        """Returns the scores of the test images' discrete states, if any."""
        if not has_numbered_states(self.vae):
            return {}
        labels = self.data.test_labels
        known = place_labels(self.vae, labels)
        states = assign(self.vae, self.data.test, known).numpy()
        if labels is None:
            return cluster_scores(states, None)
        truth = labels.cpu().numpy()
        scores: Record = {}
        if self.config.labeled is not None:
            scores["test_accuracy"] = float((states == truth).mean())
        return {**scores, **cluster_scores(states, truth)}


def _noise(vae: VAE) -> Record:
    """Returns what the likelihood has of noise; the means over dimensions."""
    found = {
        column: getattr(unmasked(vae.likelihood), name, None)
        for name, column in NOISE.items()
    }
    return {
        column: value.mean().item()
        for column, value in found.items()
        if isinstance(value, Tensor)
    }
