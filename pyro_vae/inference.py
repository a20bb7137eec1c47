"""Where q's parameters come from: an encoder, each image's own, or both.

Lambda_n, `(F,)` for each image, are the unconstrained parameters of the guide's
family, `guide.family(lambda)`. An E-step is gradient ascent on the images' own
lambda, with Theta held fixed: the classical, variational EM. Amortised
inference is `guide.encoder(x)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import pyro
import torch
from torch import Tensor

from pyro_vae.svi import compile
from pyro_vae.vae import VAE

INFERENCES = ("amortized", "local", "semi-amortized")
HELD_OUT_STEPS = 300  # for an image without a lambda of its own yet
CONVERGED = 0.01  # nats per image, gained in a round of steps
ROUND = 20
MAX_ROUNDS = 50
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


@dataclass
class Local:
    """Some images' variational parameters, and Adam's state of them.

    Attributes:
        features: lambda, `(B, F)`.
        mean: Adam's mean of the gradient, `(B, F)`.
        square: Adam's mean of its square, `(B, F)`.
        count: The steps taken, `(B, 1)`.
    """

    features: Tensor
    mean: Tensor
    square: Tensor
    count: Tensor

    @classmethod
    def start(cls, features: Tensor) -> "Local":
        """Fresh Adam state at some features."""
        zeros = torch.zeros_like(features)
        return cls(features.detach().clone(), zeros, zeros, zeros[:, :1])

    def rows(self, index: Tensor) -> "Local":
        """Those of some images."""
        return Local(*[tensor[index] for tensor in self.tensors()])

    def put(self, index: Tensor, rows: "Local") -> None:
        """Writes those of some images back, in place."""
        for tensor, new in zip(self.tensors(), rows.tensors(), strict=True):
            tensor[index] = new

    def tensors(self) -> list[Tensor]:
        """All four."""
        return [getattr(self, field.name) for field in fields(self)]


class EStep:
    r"""Gradient ascent on the images' own ELBO in their own parameters.

    .. math:: \lambda_n \leftarrow \lambda_n + \text{Adam}\bigl(
        \nabla_{\lambda_n} E_{q(z; \lambda_n)}
        \log p(x_n, z) - \log q(z; \lambda_n) \bigr)

    Args:
        vae: Its guide's `family` is optimised; its parameters stay.
        num_particles: Samples of z per image in the gradient.
        learning_rate: Adam's step size, in units of lambda.
        compiled: Compile the step, once for each number of images.
    """

    def __init__(
        self,
        vae: VAE,
        num_particles: int = 1,
        learning_rate: float = 0.1,
        compiled: bool = False,
    ):
        if not hasattr(vae.guide.distribution, "family"):
            raise ValueError(
                f"the guide {type(vae.guide.distribution).__name__} has no "
                "family(features); expected one of this package's, or your "
                "own with that method"
            )
        self.vae = vae
        self.num_particles = num_particles
        self.learning_rate = learning_rate
        self.compiled = compiled
        self._programs: dict[tuple, Callable] = {}

    def run(
        self, x: Tensor, local: Local, num_steps: float
    ) -> tuple[Local, Tensor]:
        """Takes steps.

        Args:
            x: Images, `(B, D)`.
            local: Where to start.
            num_steps: How many; `inf` for as many as it takes until a round
                of 20 gains less than 0.01 nats per image, up to 1,000.

        Returns:
            Where it ends, and the gradient that the first step saw, `(B, F)`.
        """
        if math.isfinite(num_steps):
            return self._steps(x, local, int(num_steps))[:2]
        before, first = -math.inf, None
        for _ in range(MAX_ROUNDS):
            local, gradient, elbo = self._steps(x, local, ROUND)
            first = gradient if first is None else first
            if elbo - before < CONVERGED:
                break
            before = elbo
        return local, first

    def _steps(
        self, x: Tensor, local: Local, count: int
    ) -> tuple[Local, Tensor, float]:
        """So many steps; the first gradient; the mean of the ELBOs seen."""
        rate = x.new_tensor(self.learning_rate)
        step = self._program(x, local, rate)
        first, total = torch.zeros_like(local.features), 0.0
        for index in range(count):
            *tensors, gradient, elbo = step(*local.tensors(), x, rate)
            # A compiled step's results are overwritten by its next ones.
            local = Local(*[tensor.clone() for tensor in tensors])
            if index == 0:
                first = gradient.clone()
            total = total + elbo
        return local, first, float(total) / max(1, count)

    def _program(self, x: Tensor, local: Local, rate: Tensor) -> Callable:
        if not self.compiled:
            return self._step
        key = (x.shape, local.features.shape, self.vae.training)
        if key not in self._programs:
            inputs = [*local.tensors(), x, rate]
            self._programs[key] = compile(
                self._step, inputs, modules=list(self.vae.modules())
            )
        return self._programs[key]

    def _step(
        self,
        features: Tensor,
        mean: Tensor,
        square: Tensor,
        count: Tensor,
        x: Tensor,
        rate: Tensor,
    ) -> list[Tensor]:
        """One step of Adam on each image's own parameters."""
        with torch.enable_grad(), pyro.validation_enabled(False):
            features = features.detach().requires_grad_()
            q = self.vae.guide.distribution.family(features)
            elbo = self.vae.compute_elbo(x, self.num_particles, q).sum()
            (gradient,) = torch.autograd.grad(elbo, features)
        with torch.no_grad():
            # An image whose gradient is not finite stays where it is.
            gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
            count = count + 1
            mean = BETA1 * mean + (1 - BETA1) * gradient
            square = BETA2 * square + (1 - BETA2) * gradient.square()
            scale = (square / (1 - BETA2**count)).sqrt() + EPSILON
            features = features + rate * mean / (1 - BETA1**count) / scale
            elbo = elbo.detach() / len(x)
        return [features.detach(), mean, square, count, gradient, elbo]


def make_infer(
    inference: str, num_steps: float, learning_rate: float
) -> Callable[[VAE, Tensor], Tensor] | None:
    """What `VAE.infer` takes q's parameters from, for images not trained on.

    Args:
        inference: One of `INFERENCES`.
        num_steps: Of the E-step that follows the encoder.
        learning_rate: Of the E-step.

    Returns:
        A function of a VAE and images that returns their lambda, `(B, F)`;
        None where that is the encoder alone.
    """
    if inference == "amortized":
        return None

    def infer(vae: VAE, x: Tensor, compiled: EStep | None = None) -> Tensor:
        step = compiled or EStep(vae, learning_rate=learning_rate)
        with torch.no_grad():
            features = vae.guide.distribution.encoder(x)
        if inference == "local":
            features = torch.zeros_like(features)
            return step.run(x, Local.start(features), HELD_OUT_STEPS)[
                0
            ].features
        return step.run(x, Local.start(features), num_steps)[0].features

    return infer
