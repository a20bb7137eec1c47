"""Missing values: a likelihood of what was observed, and an encoder for it.

NaN in x means that a value was not observed. Where values are missing at
random, leaving them out of p(x | z) integrates them out of the model.
"""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.parts.contracts import Likelihood, feature_count, sum_observed
from pyro_vae.parts.likelihoods import CountLikelihood

FILLS = (0.0, 0.5, 1.0)  # tried in the place of NaN


class MaskedLikelihood(Likelihood):
    r"""A likelihood of the observed dimensions of x alone.

    .. math:: p(x_o \mid z) = \prod_{d \in o} p(x_d \mid z),
        \quad o = \{d : x_d \text{ is not NaN}\}

    It is the marginal of p(x | z) of these dimensions, so that log p and the
    ELBO are those of the observed part. Values are taken to be missing at
    random: whether one is may depend on observed values, and on nothing else.

    Args:
        likelihood: The likelihood of whole data, whose dimensions are
            independent given z.

    Raises:
        ValueError: If it takes a row's sum as its library size, which holes
            make another, or if no usual number is in its support.

    References:
        Handling Incomplete Heterogeneous Data using VAEs, A. Nazabal,
        P. M. Olmos, Z. Ghahramani and I. Valera, 2020.
    """

    takes_missing = True

    def __init__(self, likelihood: Likelihood):
        nn.Module.__init__(self)  # the decoder is the likelihood's own
        if (
            isinstance(likelihood, CountLikelihood)
            and likelihood.library == "observed"
        ):
            raise ValueError(
                "library is 'observed' with missing values; expected learned: "
                "the sum of a row with holes is not its library size"
            )
        self.likelihood = likelihood
        self.support = likelihood.support
        # NaN is replaced before its log-density is left out, for the gradient
        # of what is left out must be finite.
        fills = [v for v in FILLS if self.support.check(torch.tensor(v))]
        if not fills:
            raise ValueError(
                f"the support of {type(likelihood).__name__} is "
                f"{self.support}; expected one that has 0, 0.5 or 1 in it, to "
                "stand in for missing values"
            )
        self.fill = fills[0]

    @property
    def decoder(self) -> nn.Module:  # type: ignore[override]
        """The decoder of the likelihood of whole data."""
        return self.likelihood.decoder

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`.

        Its `log_prob` leaves NaN out; its samples and its mean are whole.
        """
        return Observed(self.likelihood(z), self.fill)

    def mean_like(self, p: Any, x: Tensor) -> Tensor:
        """Returns the mean of whole data, `(..., B, D)`, in units of x."""
        return self.likelihood.mean_like(p.whole, x)

    def start(self, x: Tensor) -> None:
        """Shows the likelihood of whole data what was observed, `(N, D)`."""
        self.likelihood.start(x)

    def cross_log_prob(
        self, z: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Returns log p of the observed part of x for every pair.

        Args:
            z: Latents, `(M, P)`.
            x: Data, `(B, D)`, NaN where it was not observed.
            observed: Which of the other dimensions are summed, `(B, D)`
                booleans; by default all.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        seen = ~x.isnan() if observed is None else observed & ~x.isnan()
        x = torch.where(seen, x, torch.full_like(x, self.fill))
        return self.likelihood.cross_log_prob(z, x, seen)


class Observed(TorchDistribution):
    """A distribution whose log-density leaves out the dimensions of NaN.

    Args:
        whole: A distribution of independent dimensions, event shape `(D,)`.
        fill: A number in its support.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, whole: Any, fill: float):
        self.whole, self.fill = whole, fill
        super().__init__(
            whole.batch_shape, whole.event_shape, validate_args=False
        )

    @property
    def support(self) -> constraints.Constraint:
        """The support of what is observed."""
        return self.whole.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p of what is observed, in nats; 0 if nothing is."""
        observed = ~value.isnan()
        value = torch.where(observed, value, torch.full_like(value, self.fill))
        return sum_observed(self.whole, value, observed)

    @property
    def mean(self) -> Tensor:
        """The mean, `(..., D)`, of all dimensions."""
        return self.whole.mean

    @property
    def variance(self) -> Tensor:
        """The variance, `(..., D)`, of all dimensions."""
        return self.whole.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws all dimensions."""
        return self.whole.sample(sample_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Observed":
        """Returns it with a larger batch shape."""
        return Observed(self.whole.expand(batch_shape), self.fill)


class MaskedEncoder(nn.Module):
    """An encoder that sees zeros for NaN, and beside them which they are.

    Args:
        network: Maps x, with zeros for NaN, then 1 where x was observed and 0
            where not, and then further inputs such as one-hot labels,
            `(..., 2 D + K)`, to `(..., F)`.
        data_dim: D.

    Attributes:
        in_features: D + K.
        out_features: F.

    Raises:
        ValueError: If the network does not tell its sizes, or takes too few
            inputs.
    """

    def __init__(self, network: nn.Module, data_dim: int):
        super().__init__()
        inputs = feature_count(network, "in_features")
        if inputs < 2 * data_dim:
            raise ValueError(
                f"the encoder takes {inputs} numbers; expected at least "
                f"{2 * data_dim}: {data_dim} values of x, and for each whether "
                "it was observed"
            )
        self.network, self.data_dim = network, data_dim
        self.in_features = inputs - data_dim
        self.out_features = feature_count(network, "out_features")

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps x, and further inputs, `(..., D + K)`, to `(..., F)`."""
        x, others = inputs.tensor_split([self.data_dim], -1)
        observed = ~x.isnan()
        filled = torch.where(observed, x, torch.zeros_like(x))
        return self.network(torch.cat([filled, observed.to(x), others], -1))


def unmasked(likelihood: nn.Module) -> nn.Module:
    """Returns the likelihood of whole data, of one that may be masked."""
    if isinstance(likelihood, MaskedLikelihood):
        return likelihood.likelihood
    return likelihood
