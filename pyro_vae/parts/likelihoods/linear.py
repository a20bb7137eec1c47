"""Likelihoods that are linear in x: all pairs by one matrix product."""

from abc import ABC, abstractmethod

from torch import Tensor

from pyro_vae.parts.contracts import Likelihood


class LinearLikelihood(Likelihood, ABC):
    r"""A likelihood whose log-density is linear in x, dimension by dimension.

    .. math:: \log p(x \mid z) = \sum_d x_d a_d(z) - c_d(z) + b_d(x_d)

    as that of every exponential family with x as its statistic.
    """

    @abstractmethod
    def linear_terms(
        self, z: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns a(z) and c(z), `(M, D)` each, and b(x), `(B, D)`.

        Args:
            z: Latents, `(M, P)`.
            x: Data, `(B, D)`, in whose dtype the terms are computed.
        """

    def cross_log_prob(
        self, z: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        r"""Returns log p(x | z) for every pair, by matrix products.

        The sum loses digits to cancellation: pass x in double precision, in
        which the products are then computed.

        Args:
            z: Latents, `(M, P)`.
            x: Data, `(B, D)`.
            observed: Which dimensions are summed, `(B, D)` booleans; by
                default all.

        Returns:
            `(M, B)`, in nats, of x's dtype.
        """
        slope, volume, base = self.linear_terms(z, x)
        if observed is None:
            volume = volume.sum(-1, keepdim=True)
            return slope @ x.T - volume + base.sum(-1)
        seen = observed.to(x)
        return slope @ (x * seen).T - volume @ seen.T + (base * seen).sum(-1)
