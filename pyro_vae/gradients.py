"""How the gradient in phi gets past a draw of z: estimators, by name.

Each is a module that prepares the guide's q(z | x) for the sample site, says
which sites it can take, and which Pyro loss belongs to it.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from torch import Tensor, nn

from pyro_vae.distributions import (
    Detached,
    NormalMixture,
    OneHots,
    count_states,
)

Site = tuple[dist.Distribution, dict[str, Any]]  # with its `infer`


class Pathwise(nn.Module):
    r"""The reparameterised gradient: z is a differentiable draw.

    .. math:: \nabla_\phi E_q h(z) =
        E_\epsilon \nabla_\phi h(r(\epsilon, \phi))
    """

    loss: type[ELBO] = Trace_ELBO
    takes = "continuous latents"

    def can_take(self, prior: dist.Distribution) -> bool:
        return count_states(prior) == 1

    def forward(self, q: dist.Distribution, x: Tensor, weight: float) -> Site:
        """Returns the distribution of the site, and its `infer`.

        Args:
            q: q(z | x), batch shape `(B,)`.
            x: Images, `(B, D)`.
            weight: N / B, with which Pyro weighs each image.
        """
        return q, {}


class Enumerated(nn.Module):
    r"""The exact sum over the states of discrete latents, in parallel.

    .. math:: \nabla_\phi \sum_z q(z \mid x) h(z)

    The component of a mixture is summed over; z given the component stays a
    reparameterised draw.
    """

    loss: type[ELBO] = TraceEnum_ELBO
    takes = "discrete latents (a categorical or mixture prior)"

    def can_take(self, prior: dist.Distribution) -> bool:
        return count_states(prior) > 1

    def forward(self, q: dist.Distribution, x: Tensor, weight: float) -> Site:
        """Returns the distribution of the site, and its `infer`."""
        return q, {"enumerate": "parallel"}


class ScoreFunction(nn.Module):
    r"""The score-function gradient (REINFORCE), for any draw.

    .. math:: \nabla_\phi E_q h(z) = E_q h(z) \nabla_\phi \log q(z \mid x)

    With a baseline c that does not depend on z, h(z) - c takes the place of
    h(z): the mean is the same and the variance smaller.

    Args:
        baseline: `baseline(x)` predicts each image's ELBO, `(B,)` nats.

    References:
        Neural Variational Inference and Learning in Belief Networks, A. Mnih
        and K. Gregor, 2014.
    """

    takes = "any latents"

    def __init__(self, baseline: nn.Module | None = None):
        super().__init__()
        self.baseline = baseline
        self.loss: type[ELBO] = Trace_ELBO if baseline is None else BaselineELBO

    def can_take(self, prior: dist.Distribution) -> bool:
        return True

    def forward(self, q: dist.Distribution, x: Tensor, weight: float) -> Site:
        """Returns the distribution of the site, and its `infer`."""
        if not isinstance(q, NormalMixture):  # its z stays pathwise
            q = Detached(q)
        if self.baseline is None:
            return q, {}
        options = {
            "nn_baseline": lambda x: weight * self.baseline(x),
            "nn_baseline_input": x,
        }
        return q, {"baseline": options}


class GumbelSoftmax(nn.Module):
    """The pathwise gradient of a relaxed draw: biased, of small variance.

    Args:
        temperature: Of the softmax, positive: towards zero the bias vanishes
            and the variance grows without limit.
        straight_through: Draw one-hot vectors, and relax the gradient alone.
    """

    loss: type[ELBO] = Trace_ELBO
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

    def can_take(self, prior: dist.Distribution) -> bool:
        return isinstance(prior, OneHots)

    def forward(self, q: dist.Distribution, x: Tensor, weight: float) -> Site:
        """Returns the distribution of the site, and its `infer`."""
        return q.relax(self.temperature, self.straight_through), {}


class DecayingBaseline(nn.Module):
    r"""The decaying average of the ELBOs seen so far, one number.

    Pyro's own keeps an average for each place in the minibatch, under a
    global name, and cannot take an epoch's last, smaller minibatch.

    Args:
        decay: The weight of the average against the next ELBO's.
    """

    def __init__(self, decay: float = 0.9):
        super().__init__()
        self.decay = decay
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the average for each image, `(B,)`."""
        corrected = self.average / self.weight.clamp(min=1 - self.decay)
        return corrected.expand(len(x))

    @torch.no_grad()
    def update(self, elbo: float) -> None:
        """Takes a minibatch's mean ELBO into the average."""
        self.average.lerp_(self.average.new_tensor(elbo), 1 - self.decay)
        self.weight.lerp_(self.weight.new_tensor(1.0), 1 - self.decay)


class LearnedBaseline(nn.Module):
    """A network's prediction of each image's ELBO, learned as it goes.

    Args:
        network: Maps images `(B, D)` to `(B, 1)`.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Returns the prediction, `(B,)`."""
        return self.network(x).squeeze(-1)

    def update(self, elbo: float) -> None:
        """Nothing: Pyro's loss holds the baseline's squared error."""


class BaselineELBO(TraceGraph_ELBO):
    """`TraceGraph_ELBO`, which tells the baseline what was seen."""

    def loss_and_grads(self, model, guide, x, num_data=None) -> float:
        """Returns the loss; leaves gradients, the baseline's among them."""
        loss = super().loss_and_grads(model, guide, x, num_data)
        if math.isfinite(loss):
            guide.gradient.baseline.update(-loss / (num_data or len(x)))
        return loss


def choose_gradient(prior: dist.Distribution) -> nn.Module:
    """Returns the estimator of least variance that a prior allows."""
    return Pathwise() if count_states(prior) == 1 else Enumerated()
