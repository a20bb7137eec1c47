"""What likelihoods of counts share: the library size, and their mean."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.parts.likelihoods.linear import LinearLikelihood

LIBRARIES = ("observed", "learned")
EMPTY = 1e-8  # the library size of a row without any count

# Makes the distribution of counts from the log of their mean, `(..., D)`.
MakeCounts = Callable[[Tensor], TorchDistribution]
Constraints = dict[str, constraints.Constraint]


class CountLikelihood(LinearLikelihood, ABC):
    r"""A likelihood of counts, whose mean shares a library size out.

    .. math:: \mu = \ell \operatorname{softmax}(f), \quad f = f(z, w)

    The library size of a row is how much was counted in all: the depth at which
    a cell was sequenced, the length of a document. With `library="observed"` it
    is the row's own sum, :math:`\ell = \sum_d x_d`, and the decoder has the
    proportions alone to explain. The density is then that of the row given its
    sum as a covariate, as scvi-tools has it: it is normalized over all rows at
    one library size, and is no density of the library size. With
    `library="learned"` the library size is the decoder's, too,

    .. math:: \ell = \frac{L}{D} \sum_d e^{f_d}, \quad
        \mu_d = \frac{L}{D} e^{f_d},

    with a learned L: a density of the counts themselves.

    Args:
        decoder: The network f, mapping `(..., P)` to `(..., D)`.
        library: `observed` or `learned`.
        library_size: The usual sum of a row. At this size means and samples
            are made where no row gives its own, and L starts at it. By
            default `fit` takes the mean of the training data, and until then
            it is D.

    Raises:
        ValueError: If the library is unknown, or its size not positive.

    References:
        Deep generative modeling for single-cell transcriptomics, R. Lopez,
        J. Regier, M. B. Cole, M. I. Jordan and N. Yosef, 2018.
    """

    support = constraints.nonnegative_integer
    usual_size: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        library: str = "observed",
        library_size: float | None = None,
    ):
        super().__init__(decoder)
        if library not in LIBRARIES:
            raise ValueError(
                f"library is {library!r}; expected one of "
                f"{', '.join(LIBRARIES)}"
            )
        if library_size is not None and not 0 < library_size < math.inf:
            raise ValueError(
                f"library_size is {library_size}; expected a positive number, "
                "the usual sum of a row"
            )
        self.library = library
        # 0 where it is not known yet.
        self.register_buffer("usual_size", torch.tensor(library_size or 0.0))
        if library == "learned":  # log L, in units of the usual size
            self.log_library = nn.Parameter(torch.tensor(0.0))

    @abstractmethod
    def counts(self, log_mean: Tensor) -> TorchDistribution:
        """Returns the distribution of counts of a mean, each by itself.

        Args:
            log_mean: The log of the mean, `(..., D)`.
        """

    @property
    def library_size(self) -> Tensor:
        """The usual library size, or L if it is learned; 0 if not known."""
        if self.library == "observed":
            return self.usual_size
        return self.usual_size * self.log_library.exp()

    def start(self, x: Tensor) -> None:
        """Takes the usual library size from data, unless it is known.

        Args:
            x: Counts, `(N, D)`.
        """
        if self.usual_size == 0:
            mean = x.nanmean(dtype=torch.float64) * x.shape[-1]
            self.usual_size.fill_(mean.clamp(min=EMPTY).item())

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), batch shape `z.shape[:-1]`, event shape `(D,)`."""
        f = self.decoder(z)
        if self.library == "learned":
            return self.counts(self.log_means(f)).to_event(1)
        size = self._known_size(f.shape[-1])
        return GivenLibrary(self.counts, f.log_softmax(-1), size)

    def log_means(self, f: Tensor) -> Tensor:
        """Returns the log of the means with a learned library, `(..., D)`."""
        size = self._known_size(f.shape[-1])
        return f + self.log_library + (size / f.shape[-1]).log()

    def mean_like(self, p: Distribution, x: Tensor) -> Tensor:
        """Returns the mean counts, at the library sizes of x."""
        if isinstance(p, GivenLibrary):
            return p.given(x.sum(-1)).mean
        return p.mean

    def _known_size(self, data_dim: int) -> Tensor:
        size = self.usual_size
        return torch.where(size > 0, size, size.new_tensor(data_dim))

    def extra_repr(self) -> str:
        """Returns the part of the module's repr that names the library."""
        return f"library={self.library!r}"


class GivenLibrary(TorchDistribution):
    """Counts whose library size is the sum of the row that is asked about.

    Args:
        counts: Makes the distribution of counts.
        log_proportions: The log of the shares of each dimension, `(..., D)`.
        size: The library size of means and samples, `()`.
    """

    arg_constraints: ClassVar[Constraints] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self, counts: MakeCounts, log_proportions: Tensor, size: Tensor
    ):
        self.counts, self.size = counts, size
        self.log_proportions = log_proportions
        shape = log_proportions.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    def given(self, size: Tensor) -> Distribution:
        """Returns the distribution at library sizes, `(...)`."""
        log_size = size.clamp(min=EMPTY).log().unsqueeze(-1)
        return self.counts(self.log_proportions + log_size).to_event(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x | z, its library size), in nats."""
        return self.given(value.sum(-1)).log_prob(value)

    @property
    def mean(self) -> Tensor:
        """The mean counts at the usual library size, `(..., D)`."""
        return self.given(self.size).mean

    @property
    def variance(self) -> Tensor:
        """The variance at the usual library size, `(..., D)`."""
        return self.given(self.size).variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws counts at the usual library size."""
        return self.given(self.size).sample(sample_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GivenLibrary":
        """Returns it with a larger batch shape."""
        shape = torch.Size(batch_shape) + self.event_shape
        proportions = self.log_proportions.expand(shape)
        return GivenLibrary(self.counts, proportions, self.size)
