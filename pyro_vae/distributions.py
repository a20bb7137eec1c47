"""What Pyro's distributions lack: discrete latents, and a centre for all."""

import contextlib
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

MAX_STATES = 1024  # configurations that are enumerated


class OneHots(dist.TorchDistribution):
    r"""L independent one-hot variables of K states, laid end to end.

    .. math:: p(z) = \prod_{l=1}^L \prod_{k=1}^K \pi_{lk}^{z_{lk}}

    All of its :math:`K^L` configurations are enumerated as the values of one
    sample site. The log-density is linear in z, so that it extends to relaxed
    one-hot vectors, inside the simplex.

    Args:
        logits: Unnormalised log-probabilities, `(..., L, K)`; the batch shape
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

    def sample(self, sample_shape=()) -> Tensor:
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
        """
        num_variables, num_components = self.logits.shape[-2:]
        index = z.unflatten(-1, (num_variables, num_components)).argmax(-1)
        powers = num_components ** torch.arange(num_variables - 1, -1, -1)
        return (index * powers.to(index)).sum(-1)

    def expand(self, batch_shape, _instance=None) -> "OneHots":
        """Returns the distribution with a larger batch shape."""
        return type(self)(self._expanded(batch_shape), validate_args=False)

    def relax(self, temperature: float, straight_through: bool) -> "OneHots":
        """Returns it with reparameterised Gumbel-softmax draws."""
        return RelaxedOneHots(self.logits, temperature, straight_through)

    def _expanded(self, batch_shape) -> Tensor:
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

    def rsample(self, sample_shape=()) -> Tensor:
        """Draws `sample_shape + (..., L K)`, differentiable in the logits."""
        family = (
            dist.RelaxedOneHotCategoricalStraightThrough
            if self.straight_through
            else dist.RelaxedOneHotCategorical
        )
        temperature = self.logits.new_tensor(self.temperature)
        relaxed = family(temperature, logits=self.logits, validate_args=False)
        return relaxed.rsample(torch.Size(sample_shape)).flatten(-2)

    def expand(self, batch_shape, _instance=None) -> "OneHots":
        """Returns the distribution with a larger batch shape."""
        return type(self)(
            self._expanded(batch_shape),
            self.temperature,
            self.straight_through,
            validate_args=False,
        )


class Detached(dist.TorchDistribution):
    """A distribution whose draws carry no gradient.

    Args:
        base: Any distribution.
    """

    arg_constraints: ClassVar = {}
    has_rsample = False

    def __init__(self, base: dist.Distribution):
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, False)

    @property
    def support(self) -> constraints.Constraint:
        """That of the base."""
        return self.base.support

    def sample(self, sample_shape=()) -> Tensor:
        """Draws `sample_shape + batch_shape + event_shape`."""
        with torch.no_grad():
            z = self.base.sample(torch.Size(sample_shape))
        # A copy, or a flow would know it, and answer for its log-density with
        # the inverse that it kept, which has no gradient.
        return z.clone()

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the base's log-density."""
        return self.base.log_prob(z)

    def expand(self, batch_shape, _instance=None) -> "Detached":
        """Returns the distribution with a larger batch shape."""
        return Detached(self.base.expand(batch_shape))


class NormalMixture(dist.MixtureSameFamily):
    r"""A mixture of normals whose component is a latent of its own.

    .. math:: p(z) = \sum_y p(y) N(z \mid \mu_y, \operatorname{diag}\sigma_y^2)

    As the distribution that it is, the component is summed out. A model or
    guide declares its component, `mixture_distribution`, as site `y` and then
    `given(y)` as site `z`.

    Args:
        logits: Unnormalised log-probabilities of the components, `(..., K)`;
            the batch shape is `(...)`.
        loc: `(..., K, P)`; the event shape is `(P,)`.
        scale: Standard deviations, `(..., K, P)`.
    """

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor):
        self.loc, self.scale = loc, scale
        super().__init__(
            dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1)
        )

    @property
    def mode(self) -> Tensor:
        """The centre of the most probable component, `(..., P)`."""
        return self.given(self.component).base_dist.loc

    @property
    def component(self) -> Tensor:
        """The most probable component, `(...)`."""
        return self.mixture_distribution.logits.argmax(-1)

    def given(self, y: Tensor) -> dist.Distribution:
        """Returns p(z | y) for components y, which broadcast with the batch."""
        loc, scale = (
            Vindex(parameter)[..., y, :] for parameter in (self.loc, self.scale)
        )
        return dist.Normal(loc, scale).to_event(1)


def center(distribution: dist.Distribution) -> Tensor:
    """One point to stand for a distribution.

    Its mode, or else its mean; of a flow, which knows neither, the image of
    its base's centre.

    Returns:
        `batch_shape + event_shape`.

    Raises:
        NotImplementedError: If the distribution knows none of them.
    """
    for name in ("mode", "mean"):
        with contextlib.suppress(NotImplementedError):
            return getattr(distribution, name)
    if not isinstance(distribution, dist.TransformedDistribution):
        raise NotImplementedError(
            f"the distribution is {type(distribution).__name__}; expected one "
            "with a mode or a mean, or a TransformedDistribution of such a one"
        )
    z = center(distribution.base_dist)
    for transform in distribution.transforms:
        z = transform(z)
    return z


def count_states(distribution: dist.Distribution) -> int:
    """The discrete states behind a distribution; 1 if it has none."""
    if isinstance(distribution, OneHots):
        return distribution.num_states
    if isinstance(distribution, NormalMixture):
        return distribution.loc.shape[-2]
    return 1


def check_num_states(num_states: int) -> None:
    """Refuses to enumerate too many states.

    Raises:
        ValueError: If there are more than `MAX_STATES`.
    """
    if num_states > MAX_STATES:
        raise ValueError(
            f"there are {num_states} configurations of the discrete latents; "
            f"expected at most {MAX_STATES} to enumerate: lower "
            "--num-variables or --num-components, or sample them with "
            "--gradient score-function-baseline or gumbel-softmax"
        )
