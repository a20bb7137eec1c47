"""E-steps: gradient ascent on each image's own variational parameters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor

from pyro_vae.pair import Guide
from pyro_vae.svi import compile_graph

CONVERGED = 0.01  # nats per image, gained in a round of steps
ROUND = 20
MAX_ROUNDS = 50
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


class InferredModel(Protocol):
    """What inference asks of a VAE."""

    guide: Guide
    training: bool

    def compute_elbo(
        self, x: Tensor, num_particles: int = 1, q: Any = None
    ) -> Tensor: ...

    def modules(self) -> Any: ...

    def parameters(self) -> Any: ...


@dataclass
class ImageParameters:
    """The variational parameters of some images, and Adam's state of them.

    It is not `torch.optim.Adam`: each image has its own number of steps, since
    its turn comes once an epoch, and rows are read and written by index.

    Attributes:
        parameters: lambda, `(B, F)`.
        mean: Adam's mean of the gradient, `(B, F)`.
        square: Adam's mean of the squared gradient, `(B, F)`.
        count: The number of steps taken, `(B, 1)`.
    """

    parameters: Tensor
    mean: Tensor
    square: Tensor
    count: Tensor

    @classmethod
    def start(cls, parameters: Tensor) -> "ImageParameters":
        """Returns a fresh state of Adam at some parameters, `(B, F)`."""
        zeros = torch.zeros_like(parameters)
        count = parameters.new_zeros(len(parameters), 1)
        return cls(parameters.detach().clone(), zeros, zeros.clone(), count)

    def rows(self, index: Tensor) -> "ImageParameters":
        """Returns a copy of the rows of some images."""
        return ImageParameters(*[tensor[index] for tensor in self.tensors()])

    def put(self, index: Tensor, rows: "ImageParameters") -> None:
        """Writes the rows of some images back, in place."""
        for tensor, new in zip(self.tensors(), rows.tensors(), strict=True):
            tensor[index] = new

    def tensors(self) -> list[Tensor]:
        """Returns the four tensors, in the order of the attributes."""
        return [getattr(self, field.name) for field in fields(self)]


class EStep:
    r"""Gradient ascent on each image's own ELBO in its own parameters.

    .. math:: \lambda_n \leftarrow \lambda_n + \text{Adam}\bigl(
        \nabla_{\lambda_n} E_{q(z; \lambda_n)}
        \log p(x_n, z) - \log q(z; \lambda_n) \bigr)

    Args:
        num_particles: Samples of z per image in the gradient.
        learning_rate: The step size of Adam, in units of lambda.
    """

    def __init__(self, num_particles: int = 1, learning_rate: float = 0.1):
        self.num_particles = num_particles
        self.learning_rate = learning_rate
        self.compile_for(())

    def compile_for(self, sizes: Sequence[int]) -> None:
        """Compiles the step, from now on, for minibatches of these sizes."""
        self._compiled_sizes = tuple(sizes)
        self._programs: dict[tuple, Callable] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A compiled step holds the tensors of one VAE; a copy steps on another.
        return {**self.__dict__, "_programs": {}}

    def run(
        self,
        vae: InferredModel,
        x: Tensor,
        images: ImageParameters,
        num_steps: float,
    ) -> tuple[ImageParameters, Tensor]:
        """Takes steps.

        Args:
            vae: Its guide's `family` is optimized; its own parameters stay.
            x: Images, `(B, D)`.
            images: Their parameters at the start.
            num_steps: The number of steps; `inf` for as many as it takes until
                a round of 20 gains less than 0.01 nats per image, up to 1,000.

        Returns:
            Their parameters at the end, and the gradient at the start,
            `(B, F)`.
        """
        if math.isfinite(num_steps):
            return self._steps(vae, x, images, int(num_steps))[:2]
        before, first = -math.inf, None
        for _ in range(MAX_ROUNDS):
            images, gradient, elbo = self._steps(vae, x, images, ROUND)
            first = gradient if first is None else first
            if elbo - before < CONVERGED:
                break
            before = elbo
        assert first is not None  # there is at least one round
        return images, first

    def _steps(
        self, vae: InferredModel, x: Tensor, images: ImageParameters, count: int
    ) -> tuple[ImageParameters, Tensor, float]:
        """Returns the end, the first gradient, and the mean of the ELBOs."""
        rate = x.new_tensor(self.learning_rate)
        step = self._program(vae, x, images, rate)
        first = torch.zeros_like(images.parameters)
        total: Tensor | float = 0.0
        for index in range(count):
            *tensors, gradient, elbo = step(*images.tensors(), x, rate)
            # The next run of a compiled step overwrites the results of this.
            images = ImageParameters(*[tensor.clone() for tensor in tensors])
            if index == 0:
                first = gradient.clone()
            total = total + elbo
        return images, first, float(total) / max(1, count)

    def _program(
        self,
        vae: InferredModel,
        x: Tensor,
        images: ImageParameters,
        rate: Tensor,
    ) -> Callable:
        def step(*tensors: Tensor) -> list[Tensor]:
            return self._step(vae, *tensors)

        if len(x) not in self._compiled_sizes:
            return step
        key = (x.shape, images.parameters.shape, vae.training)
        if key not in self._programs:
            inputs = [*images.tensors(), x, rate]
            self._programs[key] = compile_graph(
                step, inputs, modules=list(vae.modules())
            )
        return self._programs[key]

    def _step(
        self,
        vae: InferredModel,
        parameters: Tensor,
        mean: Tensor,
        square: Tensor,
        count: Tensor,
        x: Tensor,
        rate: Tensor,
    ) -> list[Tensor]:
        """Takes one step of Adam on each image's own parameters."""
        with torch.enable_grad(), pyro.validation_enabled(False):
            parameters = parameters.detach().requires_grad_()
            q = vae.guide.family(parameters)
            elbo = vae.compute_elbo(x, self.num_particles, q).sum()
            (gradient,) = torch.autograd.grad(elbo, parameters)
        with torch.no_grad():
            # An image whose gradient is not finite stays where it is.
            gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
            count = count + 1
            mean = BETA1 * mean + (1 - BETA1) * gradient
            square = BETA2 * square + (1 - BETA2) * gradient.square()
            scale = (square / (1 - BETA2**count)).sqrt() + EPSILON
            parameters = parameters + rate * mean / (1 - BETA1**count) / scale
            elbo = elbo.detach() / len(x)
        return [parameters.detach(), mean, square, count, gradient, elbo]
