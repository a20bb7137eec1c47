"""The VampPrior: a mixture of the guide's own posteriors."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.contracts import Prior
from pyro_vae.parts.priors.parameters import register_logits


class VampPrior(Prior):
    r"""A mixture of q at learned pseudo-inputs.

    .. math:: p(z) = \sum_k \pi_k q(z \mid u_k)

    The optimal prior for a guide is its aggregate posterior, the mean of q over
    all images. This prior replaces all images by K learned ones.

    The guide's parameters are trained through the prior as well, but they
    belong to the guide: the prior's own parameters are the pseudo-inputs and
    the weights. Copy, move and save the prior together with the guide, as a
    `VAE` does.

    Args:
        guide: `guide(x)` is q(z | x), with a continuous z.
        num_components: K, the number of pseudo-inputs.
        data_dim: D, the dimension of an image.
        weights: `uniform`, all of them 1 / K; or `learned`, starting there.

    Raises:
        ValueError: If K is below 2, or `weights` unknown.

    References:
        VAE with a VampPrior, J. M. Tomczak and M. Welling, 2018.
    """

    def __init__(
        self,
        guide: nn.Module,
        num_components: int,
        data_dim: int,
        weights: str = "uniform",
    ):
        super().__init__()
        self.logits: Tensor
        register_logits(self, (num_components,), weights)
        # Most images are dark, so the first pseudo-inputs are. The tuple keeps
        # the guide out of the module tree, but lets a copy take it along.
        self.unconstrained_inputs = nn.Parameter(
            torch.randn(num_components, data_dim) - 2
        )
        self._guide = (guide,)

    @property
    def pseudo_inputs(self) -> Tensor:
        """The images u_k, `(K, D)`, in (0, 1)."""
        return self.unconstrained_inputs.sigmoid()

    def forward(self) -> Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        (guide,) = self._guide
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits), guide(self.pseudo_inputs)
        )
