"""Ways to find q's parameters: amortized, semi-amortized, local."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.inference.e_step import EStep, ImageParameters, InferredModel
from pyro_vae.svi import Shards

HELD_OUT_STEPS = 100  # for an image without a lambda of its own yet
# ImageParameters' fields by their names in the checkpoints of all versions.
_NAMES_IN_FILES = ("features", "mean", "square", "count")


class Inference(ABC):
    """A way to find q's parameters, held by a VAE.

    Attributes:
        is_amortized: Whether the encoder alone finds them.
    """

    is_amortized = False

    def start(self, vae: InferredModel, num_data: int) -> None:  # noqa: B027
        """Prepares for a fit to `num_data` training images."""

    @abstractmethod
    def prepare(
        self, vae: InferredModel, x: Tensor, index: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns what model and guide take after the images and N.

        Args:
            vae: The VAE.
            x: A minibatch, `(B, D)`.
            index: The places of its images in the training set, `(B,)`.
        """

    @abstractmethod
    def infer(self, vae: InferredModel, x: Tensor) -> Tensor | None:
        """Returns lambda of images that were not trained on, `(B, F)`.

        It is None where the encoder answers.
        """

    def share(  # noqa: B027
        self, index: Tensor, mine: slice, shards: Shards
    ) -> None:
        """Tells the other processes of a fit what `prepare` has changed.

        Args:
            index: The places of a minibatch's images in the training set,
                `(B,)`.
            mine: Which of them this process has prepared.
            shards: The processes.
        """

    def compile_for(self, sizes: Sequence[int]) -> None:  # noqa: B027
        """Compiles what can be compiled, for minibatches of these sizes."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must keep, by name."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027
        """Restores what `tensors` returned."""


class Amortized(Inference):
    """Inference by the encoder alone."""

    is_amortized = True

    def prepare(
        self, vae: InferredModel, x: Tensor, index: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns nothing: a step needs the images alone."""
        return ()

    def infer(self, vae: InferredModel, x: Tensor) -> None:
        """Returns None: the encoder answers."""
        return None


class SemiAmortized(Inference):
    """The encoder proposes, and E-steps refine.

    Theta follows the ELBO at the refined lambda. The encoder follows the ELBO
    at its own proposal, whose gradient the first E-step has computed.

    Args:
        step: The E-step.
        num_steps: The number of E-steps on a minibatch, or `inf`.

    References:
        On the Challenges of Learning with Inference Networks on Sparse,
        High-dimensional Data, R. G. Krishnan, D. Liang and M. D. Hoffman, 2018.
    """

    def __init__(self, step: EStep, num_steps: float = 1):
        self.step, self.num_steps = step, num_steps

    def prepare(
        self, vae: InferredModel, x: Tensor, index: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns the refined lambda and the encoder's gradient, `(B, F)`."""
        refined, gradient = self._refine(vae, x)
        return refined.parameters, gradient

    def infer(self, vae: InferredModel, x: Tensor) -> Tensor:
        """Returns the refined lambda of images, `(B, F)`."""
        return self._refine(vae, x)[0].parameters

    def compile_for(self, sizes: Sequence[int]) -> None:
        """Compiles the E-step for minibatches of these sizes."""
        self.step.compile_for(sizes)

    def _refine(
        self, vae: InferredModel, x: Tensor
    ) -> tuple[ImageParameters, Tensor]:
        with torch.no_grad():
            proposal = ImageParameters.start(vae.guide.encode(x))
        return self.step.run(vae, x, proposal, self.num_steps)


class LocalInference(Inference):
    """Each training image keeps a lambda of its own; no encoder is trained.

    Args:
        step: The E-step.
        num_steps: The number of E-steps on a minibatch before the step on
            Theta, or `inf`.
    """

    def __init__(self, step: EStep, num_steps: float = 1):
        self.step, self.num_steps = step, num_steps
        self._images: ImageParameters | None = None

    def start(self, vae: InferredModel, num_data: int) -> None:
        """Gives each of `num_data` images a lambda at the family's origin."""
        like: nn.Parameter = next(iter(vae.parameters()))
        origin = like.new_zeros(num_data, vae.guide.num_parameters)
        self._images = ImageParameters.start(origin)

    def prepare(
        self, vae: InferredModel, x: Tensor, index: Tensor
    ) -> tuple[Tensor, ...]:
        """Improves the minibatch's own lambda, `(B, F)`, and returns it."""
        images = self._started()
        rows, _ = self.step.run(vae, x, images.rows(index), self.num_steps)
        images.put(index, rows)
        return (rows.parameters,)

    def share(self, index: Tensor, mine: slice, shards: Shards) -> None:
        """Gives every process the lambda of the whole minibatch."""
        images = self._started()
        parts = []
        for tensor in images.tensors():
            part = tensor.new_zeros(len(index), tensor.shape[1])
            part[mine] = tensor[index[mine]]
            parts.append(part)
        images.put(index, ImageParameters(*shards.sum(parts)[0]))

    def infer(self, vae: InferredModel, x: Tensor) -> Tensor:
        """Returns lambda of images that were not trained on, `(B, F)`.

        They take 100 E-steps of their own, from the family's origin.
        """
        origin = x.new_zeros(len(x), vae.guide.num_parameters)
        start = ImageParameters.start(origin)
        return self.step.run(vae, x, start, HELD_OUT_STEPS)[0].parameters

    def compile_for(self, sizes: Sequence[int]) -> None:
        """Compiles the E-step for minibatches of these sizes."""
        self.step.compile_for(sizes)

    def tensors(self) -> dict[str, Tensor]:
        """Returns every image's lambda, and the state of its Adam."""
        images = self._started()
        return dict(zip(_NAMES_IN_FILES, images.tensors(), strict=True))

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        like = self._started().parameters
        self._images = ImageParameters(
            *[tensors[name].to(like) for name in _NAMES_IN_FILES]
        )

    def _started(self) -> ImageParameters:
        if self._images is None:
            raise ValueError(
                "local inference has no training images yet; expected "
                "inference.start(vae, num_data) first, as fit() calls it"
            )
        return self._images
