"""Estimators of the gradient in phi, through a draw of z.

Each is a module that prepares the guide's q(z | x) for its Pyro sample site,
says which latents it can take, and names the Pyro loss that belongs to it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.distributions import (
    OneHots,
    count_states,
    detach_draws,
)

Site = tuple[Distribution, dict[str, Any]]  # and the site's `infer`


class GradientEstimator(nn.Module, ABC):
    """How the gradient gets through a draw of z.

    Attributes:
        loss: The Pyro estimator of the ELBO that belongs to it.
        takes: Words for the latents that it can take.
    """

    loss: type[ELBO] = Trace_ELBO
    takes: str

    @abstractmethod
    def can_take(self, prior: Distribution) -> bool:
        """Returns whether it can take the latents of a prior."""

    def forward(self, q: Distribution, x: Tensor, weight: float) -> Site:
        """Returns the distribution of the sample site, and its `infer`.

        Args:
            q: q(z | x), batch shape `(B,)`.
            x: Images, `(B, D)`.
            weight: N / B, the factor by which Pyro weighs each image.
        """
        return q, {}


class Pathwise(GradientEstimator):
    r"""The reparameterized gradient: z is a differentiable draw.

    .. math:: \nabla_\phi E_q h(z) =
        E_\epsilon \nabla_\phi h(r(\epsilon, \phi))
    """

    takes = "continuous latents"

    def can_take(self, prior: Distribution) -> bool:
        """Returns whether no latent is discrete."""
        return count_states(prior) == 1


class Enumerated(GradientEstimator):
    r"""The exact sum over the states of discrete latents, in parallel.

    .. math:: \nabla_\phi \sum_z q(z \mid x) h(z)

    The component of a mixture is summed over; z given the component stays a
    reparameterized draw.
    """

    loss = TraceEnum_ELBO
    takes = "discrete latents (a categorical or mixture prior)"

    def can_take(self, prior: Distribution) -> bool:
        """Returns whether there are discrete latents."""
        return count_states(prior) > 1

    def forward(self, q: Distribution, x: Tensor, weight: float) -> Site:
        """Returns q, marked to be enumerated in parallel."""
        return q, {"enumerate": "parallel"}


class ScoreFunction(GradientEstimator):
    r"""The score-function gradient (REINFORCE), for any draw.

    .. math:: \nabla_\phi E_q h(z) = E_q h(z) \nabla_\phi \log q(z \mid x)

    With a baseline c that does not depend on z, h(z) - c takes the place of
    h(z): the mean is the same and the variance smaller. In a mixture, z given
    its component stays a reparameterized draw.

    Args:
        baseline: `baseline(x)` predicts each image's ELBO, `(B,)` nats.

    References:
        Neural Variational Inference and Learning in Belief Networks, A. Mnih
        and K. Gregor, 2014.
    """

    takes = "any latents"

    def __init__(self, baseline: "Baseline | None" = None):
        super().__init__()
        self.baseline = baseline
        self.loss = Trace_ELBO if baseline is None else BaselineELBO

    def can_take(self, prior: Distribution) -> bool:
        """Returns true: the score function needs no differentiable draw."""
        return True

    def forward(self, q: Distribution, x: Tensor, weight: float) -> Site:
        """Returns q with draws that carry no gradient, and the baseline."""
        q = detach_draws(q)
        baseline = self.baseline
        if baseline is None:
            return q, {}
        options = {  # Pyro drops the dimension of a single image
            "nn_baseline": lambda x: weight * baseline(x).squeeze(0),
            "nn_baseline_input": x,
        }
        return q, {"baseline": options}


class GumbelSoftmax(GradientEstimator):
    """The pathwise gradient of a relaxed draw: biased, with a small variance.

    Args:
        temperature: The temperature of the softmax, positive. Towards zero the
            bias vanishes and the variance grows without limit.
        straight_through: Whether draws are one-hot vectors, so that the
            gradient alone is relaxed.

    Raises:
        ValueError: If the temperature is not positive.

    References:
        Categorical Reparameterization with Gumbel-Softmax, E. Jang, S. Gu and
        B. Poole, 2017.
    """

    takes = "one-hot latents (a categorical prior)"

    def __init__(
        self, temperature: float = 0.5, straight_through: bool = False
    ):
        if not temperature > 0:
            raise ValueError(
                f"temperature is {temperature}; expected a positive number"
            )
        super().__init__()
        self.temperature = temperature
        self.straight_through = straight_through

    def can_take(self, prior: Distribution) -> bool:
        """Returns whether z consists of one-hot vectors."""
        return isinstance(prior, OneHots)

    def forward(self, q: Distribution, x: Tensor, weight: float) -> Site:
        """Returns q with relaxed draws."""
        if not isinstance(q, OneHots):
            raise ValueError(
                f"the guide is {type(q).__name__}; expected one-hot variables "
                "for the Gumbel-softmax: use CategoricalGuide"
            )
        return q.relax(self.temperature, self.straight_through), {}


class Baseline(nn.Module, ABC):
    """A prediction of each image's ELBO, which reduces the variance."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Returns the prediction for images `(B, D)`: `(B,)`, in nats."""

    def update(self, elbo: float) -> None:
        """Learns from a minibatch's mean ELBO, in nats; here it need not."""


class DecayingBaseline(Baseline):
    r"""The decaying average of the ELBOs seen so far, one number.

    Pyro's own decaying baseline keeps an average for each place in the
    minibatch, under a global name, and cannot take a smaller last minibatch.

    Args:
        decay: The weight of the average against the next ELBO's.
    """

    average: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9):
        super().__init__()
        self.decay = decay
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the average for each image, `(B,)`, in nats."""
        corrected = self.average / self.weight.clamp(min=1 - self.decay)
        return corrected.expand(len(x))

    @torch.no_grad()
    def update(self, elbo: float) -> None:
        """Takes a minibatch's mean ELBO into the average."""
        self.average.lerp_(self.average.new_tensor(elbo), 1 - self.decay)
        self.weight.lerp_(self.weight.new_tensor(1.0), 1 - self.decay)


class LearnedBaseline(Baseline):
    """A network's prediction of each image's ELBO.

    It learns by gradient descent: Pyro's loss holds its squared error.

    Args:
        network: Maps images `(B, D)` to `(B, 1)`.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Returns the prediction, `(B,)`, in nats."""
        return self.network(x).squeeze(-1)


class BaselineELBO(TraceGraph_ELBO):
    """`TraceGraph_ELBO`, which also tells the baseline each ELBO.

    That is a Python number, for which a compiled graph has no place.
    """

    can_be_compiled = False

    def loss_and_grads(
        self,
        model: Callable,
        guide: Any,
        x: Tensor,
        num_data: float | None = None,
        **given: Any,
    ) -> float:
        """Returns the loss and leaves gradients, also the baseline's."""
        loss = super().loss_and_grads(model, guide, x, num_data, **given)
        if math.isfinite(loss):
            guide.gradient.baseline.update(-loss / (num_data or len(x)))
        return loss


def choose_gradient(prior: Distribution) -> GradientEstimator:
    """Returns the estimator of least variance that a prior allows."""
    return Pathwise() if count_states(prior) == 1 else Enumerated()
