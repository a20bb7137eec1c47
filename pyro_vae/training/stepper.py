"""Optimisation steps, by the engine that a run has."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_vae.config import Config
from pyro_vae.objectives import AnnealedObjective
from pyro_vae.svi import (
    CompilationError,
    CompiledSVI,
    DynamicPairError,
    make_svi,
)
from pyro_vae.vae import VAE

Number = float | Tensor


class Stepper:
    """Takes steps on minibatches, eagerly until `compile` was called.

    An epoch's last, smaller minibatch steps eagerly: a step in hundreds does
    not pay for a graph of its own.

    Args:
        vae: On its device.
        config: The objective, and how to step.
        optim: The optimiser.
        num_data: N, the training images.
        num_batches: Steps in an epoch.

    Attributes:
        objective: What is maximised.
        engine: `eager` or `compiled`.
    """

    def __init__(
        self,
        vae: VAE,
        config: Config,
        optim: pyro.optim.PyroOptim,
        num_data: int,
        num_batches: int,
    ):
        self.config, self.num_data = config, num_data
        self._is_cuda = next(vae.parameters()).is_cuda
        self.objective = AnnealedObjective(config, vae, num_data, num_batches)
        self._clip_norm = None
        if config.gradient_clip is not None:  # the loss is the data set's
            self._clip_norm = config.gradient_clip * num_data
        self._pair = (vae.model, vae.guide, optim, self.objective.estimator)
        self._eager = make_svi(*self._pair, self._clip_norm)
        self._compiled: CompiledSVI | None = None

    @property
    def engine(self) -> str:
        return "eager" if self._compiled is None else "compiled"

    def compile(self) -> None:
        """Goes on with compiled steps, whose first one compiles."""
        self._compiled = CompiledSVI(
            *self._pair,
            self.config.matmul_precision,
            clip_norm=self._clip_norm,
        )

    def fall_back(self, error: Exception) -> None:
        """Goes on eagerly, unless the compiled engine was asked for.

        Raises:
            Exception: The one given, if it was.
        """
        if self.config.engine == "compiled":
            raise error
        warnings.warn(f"{error}; going on eagerly", stacklevel=2)
        self._compiled = None

    def step(
        self, number: int, x: Tensor, *inferred: Tensor
    ) -> tuple[Number, Number]:
        """Takes a step.

        Args:
            number: Which one, counted from 1.
            x: A minibatch, `(B, D)`.
            inferred: What model and guide take beside it and N.

        Returns:
            The minibatch's mean objective and ELBO, in nats: on CUDA, if
            compiled, as tensors that nobody waits for.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite.
        """
        self.objective.set_weight(number)
        is_whole = len(x) == self.config.batch_size
        svi = (self._compiled if is_whole else None) or self._eager
        arguments = (x, self.num_data, *inferred)
        try:
            loss = _take_step(svi, *arguments)
        except (CompilationError, DynamicPairError) as error:
            self.fall_back(error)  # nothing was touched
            loss = _take_step(self._eager, *arguments)
        return self.objective.read(loss)

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """torch's precision of float32 products, for a block.

        A graph for the CPU has its own, for its large products; the small ones
        would only lose time to conversions.
        """
        before = torch.get_float32_matmul_precision()
        if self.engine == "eager" or self._is_cuda:
            torch.set_float32_matmul_precision(self.config.matmul_precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _take_step(svi: SVI | CompiledSVI, x: Tensor, *arguments) -> Number:
    if x.is_cuda and isinstance(svi, CompiledSVI):
        return svi.step_tensor(x, *arguments)
    return svi.step(x, *arguments)
