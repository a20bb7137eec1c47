"""Independent one-hot variables, and their Gumbel-softmax relaxation."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.parts.distributions.detached import Detached
from pyro_vae.parts.distributions.discrete import (
    MAX_STATES,
    DiscreteLatents,
    WeightedDraws,
    check_num_states,
    declare_site,
    sampled_draws,
)

MOST_STATES = 2**63  # that 64-bit integers number


class OneHots(dist.TorchDistribution, DiscreteLatents):
    r"""L independent one-hot variables of K states, laid end to end.

    .. math:: p(z) = \prod_{l=1}^L \prod_{k=1}^K \pi_{lk}^{z_{lk}}

    All of its :math:`K^L` configurations are enumerated as the values of one
    sample site. The log-density is linear in z, so that it extends to relaxed
    one-hot vectors, inside the simplex.

    Args:
        logits: Unnormalized log-probabilities, `(..., L, K)`; the batch shape
            is `(...)`, the event shape `(L K,)`.
    """

    arg_constraints: ClassVar = {
        "logits": constraints.independent(constraints.real, 2)
    }
    support = constraints.independent(constraints.unit_interval, 1)
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None):
        self.logits = logits.log_softmax(-1)
        *batch_shape, num_variables, num_components = logits.shape
        super().__init__(
            torch.Size(batch_shape),
            torch.Size([num_variables * num_components]),
            validate_args=validate_args,
        )

    @property
    def num_states(self) -> int:
        """The number of configurations, K to the power of L."""
        num_variables, num_components = self.logits.shape[-2:]
        return num_components**num_variables

    @property
    def mean(self) -> Tensor:
        """The probabilities, `(..., L K)`."""
        return self.logits.exp().flatten(-2)

    @property
    def mode(self) -> Tensor:
        """The most probable configuration, `(..., L K)`."""
        return self._from_indices(self.logits.argmax(-1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws one-hot vectors, `sample_shape + (..., L K)`."""
        indices = dist.Categorical(logits=self.logits).sample(sample_shape)
        return self._from_indices(indices)

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns log p(z), in nats, for z `(..., L K)`."""
        if self._validate_args:
            self._validate_sample(z)
        blocks = z.unflatten(-1, self.logits.shape[-2:])
        return (blocks * self.logits).sum((-1, -2))

    def entropy(self) -> Tensor:
        """Returns the entropy, `(...)`, in nats."""
        return -(self.logits.exp() * self.logits).sum((-1, -2))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Returns all configurations, the last variable changing fastest.

        Returns:
            `(K^L, ..., L K)`, where the batch dimensions are of size 1 unless
            `expand`.

        Raises:
            ValueError: If there are more than `MAX_STATES`.
        """
        check_num_states(self.num_states)
        num_variables, num_components = self.logits.shape[-2:]
        states = torch.arange(num_components, device=self.logits.device)
        indices = torch.cartesian_prod(*[states] * num_variables)
        z = self._from_indices(indices.view(-1, num_variables))
        z = z.view(-1, *[1] * len(self.batch_shape), *self.event_shape)
        if expand:
            z = z.expand(-1, *self.batch_shape, *self.event_shape)
        return z

    def index(self, z: Tensor) -> Tensor:
        """Returns the place of configurations z among the enumerated ones.

        Args:
            z: `(..., L K)`.

        Returns:
            Integers, `(...)`.

        Raises:
            ValueError: If there are more states than an integer can count.
        """
        num_variables, num_components = self.logits.shape[-2:]
        if num_components**num_variables > MOST_STATES:
            raise ValueError(
                f"there are {num_components}**{num_variables} states; expected "
                "at most 2**63, which integers can number: look at each "
                "variable by itself"
            )
        index = z.unflatten(-1, (num_variables, num_components)).argmax(-1)
        powers = num_components ** torch.arange(num_variables - 1, -1, -1)
        return (index * powers.to(index)).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OneHots":
        """Returns the distribution with a larger batch shape."""
        return type(self)(self._expanded(batch_shape), validate_args=False)

    def relax(self, temperature: float, straight_through: bool) -> "OneHots":
        """Returns the same variables with Gumbel-softmax draws.

        Args:
            temperature: The temperature of the softmax, positive.
            straight_through: Whether draws are rounded to one-hot vectors.
        """
        return RelaxedOneHots(self.logits, temperature, straight_through)

    @property
    def most_probable_state(self) -> Tensor:
        """The index of the most probable configuration, `(...)` integers."""
        return self.index(self.mode)

    def declare(self, infer: dict[str, Any]) -> Tensor:
        """Declares the one site `z`, and returns z."""
        return declare_site("z", self, infer)

    def detached(self) -> "Detached":
        """Returns it with draws that carry no gradient."""
        return Detached(self)

    def weighted_draws(
        self, p: Distribution, num_samples: int
    ) -> WeightedDraws:
        """Returns every state once, or draws if there are too many states."""
        if self.num_states > MAX_STATES:
            return sampled_draws(self, p, num_samples)
        z = self.enumerate_support(expand=False)
        log_q = self.log_prob(z)
        return WeightedDraws(z, log_q.exp(), log_q - p.log_prob(z))

    def _expanded(self, batch_shape: Any) -> Tensor:
        return self.logits.expand(*batch_shape, *self.logits.shape[-2:])

    def _from_indices(self, indices: Tensor) -> Tensor:
        size = self.logits.shape[-1]
        states = torch.arange(size, device=indices.device)
        matches = indices.unsqueeze(-1) == states
        return matches.to(self.logits).flatten(-2)


class RelaxedOneHots(OneHots):
    """One-hot variables whose draws are relaxed to be differentiable.

    Draws are Pyro's Gumbel-softmax; the log-density stays the categorical one,
    extended linearly. The gradient of an expectation through them is biased
    at any temperature above zero.

    Args:
        logits: As in `OneHots`.
        temperature: Of the softmax, positive.
        straight_through: Round the draws to one-hot vectors, and let the
            gradient through as if they had not been.

    References:
        Categorical Reparameterization with Gumbel-Softmax, E. Jang, S. Gu and
        B. Poole, 2017.
    """

    has_rsample = True
    has_enumerate_support = False

    def __init__(
        self,
        logits: Tensor,
        temperature: float,
        straight_through: bool = False,
        validate_args: bool | None = None,
    ):
        super().__init__(logits, validate_args)
        self.temperature = temperature
        self.straight_through = straight_through

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws `sample_shape + (..., L K)`, differentiable in the logits."""
        family = (
            dist.RelaxedOneHotCategoricalStraightThrough
            if self.straight_through
            else dist.RelaxedOneHotCategorical
        )
        temperature = self.logits.new_tensor(self.temperature)
        relaxed = family(temperature, logits=self.logits, validate_args=False)
        return relaxed.rsample(torch.Size(sample_shape)).flatten(-2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OneHots":
        """Returns the distribution with a larger batch shape."""
        return type(self)(
            self._expanded(batch_shape),
            self.temperature,
            self.straight_through,
            validate_args=False,
        )
