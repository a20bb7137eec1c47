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
HELD_OUT_STEPS = 100  # for an image without a lambda of its own yet
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
        count = features.new_zeros(len(features), 1)
        return cls(features.detach().clone(), zeros, zeros.clone(), count)

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
        compiled_sizes: Numbers of images for which the step is compiled.
    """

    def __init__(
        self,
        vae: VAE,
        num_particles: int = 1,
        learning_rate: float = 0.1,
        compiled_sizes: tuple[int, ...] = (),
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
        self.compiled_sizes = compiled_sizes
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
        if len(x) not in self.compiled_sizes:
            return self._step
        key = (x.shape, local.features.shape, self.vae.training)
        if key not in self._programs:
            inputs = [*local.tensors(), x, rate]
            self._programs[key] = compile(
                lambda *tensors: self._step(*tensors),
                inputs,
                modules=list(self.vae.modules()),
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


class Amortized:
    """Inference by the encoder alone: a step needs nothing beside images."""

    def prepare(self, x: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Returns what model and guide take beside images and their number.

        Args:
            x: A minibatch, `(B, D)`.
            index: Its places in the training set, `(B,)`.
        """
        return ()

    def tensors(self) -> dict[str, Tensor]:
        """What a run must keep."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes what `tensors` gave."""


class SemiAmortized:
    """The encoder proposes, an E-step refines.

    Theta follows the ELBO at the refined lambda, the encoder the ELBO where it
    stands itself, whose gradient the E-step's first step has seen.

    Args:
        step: The E-step.
        num_steps: How many, or `inf`.

    References:
        On the Challenges of Learning with Inference Networks on Sparse,
        High-dimensional Data, R. G. Krishnan, D. Liang and M. D. Hoffman, 2018.
    """

    def __init__(self, step: EStep, num_steps: float):
        self.step, self.num_steps = step, num_steps

    def prepare(self, x: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Returns the refined lambda and the encoder's ascent, `(B, F)`."""
        local, ascent = self.step.run(x, self._propose(x), self.num_steps)
        return local.features, ascent

    def infer(self, x: Tensor) -> Tensor:
        """Returns lambda of images that were not trained on, `(B, F)`."""
        return self.step.run(x, self._propose(x), self.num_steps)[0].features

    def tensors(self) -> dict[str, Tensor]:
        """What a run must keep: nothing."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes what `tensors` gave."""

    @torch.no_grad()
    def _propose(self, x: Tensor) -> Local:
        return Local.start(self.step.vae.guide.distribution.encoder(x))


class LocalInference:
    """Each training image keeps a lambda of its own; no encoder is trained.

    Args:
        step: The E-step.
        num_steps: How many on each minibatch, before Theta's; or `inf`.
        num_data: N, the number of training images.
    """

    def __init__(self, step: EStep, num_steps: float, num_data: int = 0):
        self.step, self.num_steps = step, num_steps
        parameter = next(step.vae.parameters())
        size = step.vae.guide.distribution.encoder.out_features
        self.local = Local.start(parameter.new_zeros(num_data, size))

    def prepare(self, x: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Improves the minibatch's own lambda, `(B, F)`, and returns it."""
        rows, _ = self.step.run(x, self.local.rows(index), self.num_steps)
        self.local.put(index, rows)
        return (rows.features,)

    def infer(self, x: Tensor) -> Tensor:
        """Returns lambda of images that were not trained on, `(B, F)`.

        By E-steps of their own, from the family's origin.
        """
        start = x.new_zeros(len(x), self.local.features.shape[1])
        local = Local.start(start)
        return self.step.run(x, local, HELD_OUT_STEPS)[0].features

    def tensors(self) -> dict[str, Tensor]:
        """What a run must keep: every lambda, and Adam's state of it."""
        return {
            field.name: getattr(self.local, field.name)
            for field in fields(self.local)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes what `tensors` gave."""
        like = self.local.features
        self.local = Local(**{k: v.to(like) for k, v in tensors.items()})


Inference = Amortized | SemiAmortized | LocalInference


def make_inference(
    name: str,
    vae: VAE,
    num_steps: float = 1,
    learning_rate: float = 0.1,
    num_data: int = 0,
) -> Inference:
    """Makes a way of inference for a VAE, and sets `vae.inference` to it.

    Args:
        name: One of `INFERENCES`.
        vae: The VAE.
        num_steps: E-steps on a minibatch, or `inf`.
        learning_rate: Of the E-steps.
        num_data: The number of training images.

    Raises:
        ValueError: If there is no inference of that name.
    """
    if name not in INFERENCES:
        raise ValueError(
            f"inference is {name!r}; expected one of {', '.join(INFERENCES)}"
        )
    if name == "amortized":
        vae.inference = None
        return Amortized()
    step = EStep(vae, 1, learning_rate)
    if name == "local":
        inference = LocalInference(step, num_steps, num_data)
    else:
        inference = SemiAmortized(step, num_steps)
    vae.inference = inference.infer
    return inference
