"""The VampPrior: a mixture of the guide's own posteriors."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.priors.parameters import register_logits


class VampPrior(nn.Module):
    r"""A mixture of q at learned pseudo-inputs.

    .. math:: p(z) = \sum_k \pi_k q(z \mid u_k)

    The optimal prior of a guide is its aggregate posterior, the mean of q over
    all images; this one stands K learned images in for them.

    The guide's parameters are trained through the prior, too, but stay the
    guide's: the prior names only its pseudo-inputs as its own. Copy, move and
    save it together with the guide, as a `VAE` does.

    Args:
        guide: `guide(x)` is q(z | x), of a continuous z.
        num_components: K.
        data_dim: D.
        weights: `uniform`, all of them 1 / K; or `learned`, from there.

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
        register_logits(self, (num_components,), weights)
        # Dark images, as most are; a tuple hides the guide from the module
        # tree, and yet is copied with it.
        self.unconstrained_inputs = nn.Parameter(
            torch.randn(num_components, data_dim) - 2
        )
        self._guide = (guide,)

    @property
    def pseudo_inputs(self) -> Tensor:
        """The images u_k, `(K, D)`, in (0, 1)."""
        return self.unconstrained_inputs.sigmoid()

    def forward(self) -> dist.Distribution:
        """Returns p(z), batch shape `()`, event shape `(P,)`."""
        (guide,) = self._guide
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits), guide(self.pseudo_inputs)
        )
