"""Optimization steps, with the engine that a run has."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_vae.config import FitConfig
from pyro_vae.svi import (
    CompilationError,
    CompiledSVI,
    DynamicPairError,
    Shards,
    make_svi,
)
from pyro_vae.training.objective import AnnealedObjective, Number
from pyro_vae.vae import VAE


class Stepper:
    """Takes steps on minibatches, eagerly until `compile_steps` is called.

    The smaller last minibatch of an epoch always steps eagerly: one step in
    hundreds does not pay for a graph of its own.

    Args:
        vae: The VAE, on its device.
        config: How to step.
        objective: What is maximized.
        optim: The optimizer.
        num_data: N, the number of training images.
        shards: The processes that share each minibatch.

    Attributes:
        compiled: The compiled steps; None where steps are eager.
    """

    def __init__(
        self,
        vae: VAE,
        config: FitConfig,
        objective: AnnealedObjective,
        optim: pyro.optim.PyroOptim,
        num_data: int,
        shards: Shards,
    ):
        self.config, self.num_data = config, num_data
        self.shards = shards
        self.objective = objective
        self._is_cuda = next(vae.parameters()).is_cuda
        self._clip_norm = None
        if config.gradient_clip is not None:  # the loss is the data set's
            self._clip_norm = config.gradient_clip * num_data
        self._pair = (vae.model, vae.guide, optim, objective.estimator)
        baseline = list(vae.guide.gradient.buffers())
        self._eager = make_svi(*self._pair, self._clip_norm, shards, baseline)
        self.compiled: CompiledSVI | None = None

    @property
    def engine(self) -> str:
        """The engine that steps are taken with: `eager` or `compiled`."""
        return "eager" if self.compiled is None else "compiled"

    def compile_steps(self) -> None:
        """Goes on with compiled steps; the first of them compiles."""
        self.compiled = CompiledSVI(
            *self._pair,
            precision=self.config.matmul_precision,
            clip_norm=self._clip_norm,
            shards=self.shards,
        )

    def fall_back(self, error: Exception) -> None:
        """Goes on eagerly, unless the compiled engine was asked for.

        Raises:
            Exception: The given error, if it was asked for.
        """
        if self.config.engine == "compiled":
            raise error
        warnings.warn(f"{error}; going on eagerly", stacklevel=2)
        self.compiled = None

    def step(
        self,
        number: int,
        x: Tensor,
        *inferred: Tensor,
        **given: Any,
    ) -> tuple[Number, Number]:
        """Takes a step.

        Args:
            number: The number of the step, counted from 1.
            x: This process's rows of a minibatch, `(b, D)`.
            inferred: What model and guide take after the images and N.
            given: What they take by name: what is known of the labels.

        Returns:
            The minibatch's mean objective and ELBO, in nats. A compiled step
            on CUDA returns tensors, which the host does not wait for.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite.
        """
        self.objective.set_weight(number)
        size = len(x) if self.shards.is_alone else self.shards.part.size
        is_whole = size == self.config.batch_size
        svi = (self.compiled if is_whole else None) or self._eager
        try:
            loss = self._take_step(svi, x, *inferred, **given)
        except (CompilationError, DynamicPairError) as error:
            self.fall_back(error)  # nothing was touched
            loss = self._take_step(self._eager, x, *inferred, **given)
        return self.objective.read(loss)

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """Sets torch's precision of float32 products for a block.

        A graph for the CPU has a precision of its own for its large products;
        the small ones would only lose time to conversions.
        """
        before = torch.get_float32_matmul_precision()
        if self.engine == "eager" or self._is_cuda:
            torch.set_float32_matmul_precision(self.config.matmul_precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _take_step(
        self,
        svi: SVI | CompiledSVI,
        x: Tensor,
        *inferred: Tensor,
        **given: Any,
    ) -> Number:
        share = self.shards.share(self.num_data)
        if x.is_cuda and isinstance(svi, CompiledSVI):
            return svi.step_tensor(x, share, *inferred, **given)
        return svi.step(x, share, *inferred, **given)
