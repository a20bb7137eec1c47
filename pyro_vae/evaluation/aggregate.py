"""How far the guide, averaged over the data, is from the prior."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_vae.evaluation.elbo import evaluation_mode, zip_batches
from pyro_vae.randomness import random_stream
from pyro_vae.vae import VAE

ACTIVE = 0.01  # variance of q's mean over the data, above which a unit is used
DRAWS = 10  # of each image's q
PAIRS = 2000  # latents in each sample of a discrepancy
BLOCKS = 10  # of samples; their spread is the standard error


@dataclass(frozen=True)
class Aggregate:
    r"""The aggregate posterior :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`.

    Attributes:
        active: Which latent dimensions are in use, `(P,)`: those where the
            variance of q's mean over the data exceeds 0.01.
        kl: Each dimension's mean KL, `(P,)`, in nats; NaN if prior or guide
            are not a product over dimensions.
        mean: The mean of q(z), `(P,)`.
        scale: The standard deviation of q(z), `(P,)`.
        prior_mean: The mean of p(z), from samples, `(P,)`.
        prior_scale: The standard deviation of p(z), from samples, `(P,)`.
        mmd: The squared maximum mean discrepancy of q(z) and p(z), unbiased,
            under a Gaussian kernel of the samples' median distance.
        mmd_error: The standard error of `mmd`, over blocks of samples.
    """

    active: Tensor
    kl: Tensor
    mean: Tensor
    scale: Tensor
    prior_mean: Tensor
    prior_scale: Tensor
    mmd: float
    mmd_error: float


@torch.no_grad()
def check_aggregate(
    vae: VAE, x: Tensor, seed: int = 0, labels: Tensor | None = None
) -> Aggregate:
    """Compares q(z), averaged over images, with the prior.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        seed: The seed of the samples.
        labels: The images' labels, `(B,)`, of a conditional VAE.

    References:
        Importance Weighted Autoencoders, Y. Burda, R. Grosse and
        R. Salakhutdinov, 2015 (active units). A Kernel Two-Sample Test,
        A. Gretton et al., 2012.
    """
    with evaluation_mode(vae), random_stream(seed, 0, x.device):
        draws, centers, kls = [], [], []
        for part in zip_batches(x, labels, 1000):
            q = vae.infer(*part)
            z = q.sample(torch.Size([DRAWS]))
            draws.append(z)
            centers.append(z.mean(0))
            kls.append(_kl_by_dimension(q, vae.prior(), z))
        z = torch.cat(draws, dim=1)
        # The mean of the draws has a share of q's variance on top.
        spread = torch.cat(centers).var(0) - z.var(0).mean(0) / len(z)
        prior = vae.prior().sample(torch.Size([BLOCKS * PAIRS]))
        flat = z.flatten(0, 1)
        mmd, error = _discrepancy(flat, prior)
    return Aggregate(
        spread > ACTIVE,
        torch.cat(kls).mean(0),
        flat.mean(0),
        flat.std(0),
        prior.mean(0),
        prior.std(0),
        mmd,
        error,
    )


def _kl_by_dimension(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """Estimates the KL of each dimension by draws z, `(S, B, P)`: `(B, P)`."""
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return torch.full(z.shape[1:], math.nan).to(z)
    return (q.base_dist.log_prob(z) - p.base_dist.log_prob(z)).mean(0)


def _discrepancy(left: Tensor, right: Tensor) -> tuple[float, float]:
    """Returns the squared discrepancy, a mean over blocks, and its error."""
    found = []
    for _ in range(BLOCKS):
        a, b = (
            sample[torch.randperm(len(sample), device=sample.device)[:PAIRS]]
            for sample in (left, right)
        )
        within = [torch.cdist(c, c).square() for c in (a, b)]
        across = torch.cdist(a, b).square()
        width = across.median().clamp(min=1e-12)
        kernels = [(-square / width).exp() for square in (*within, across)]
        of_pairs = [
            (kernel.sum() - len(kernel)) / (len(kernel) * (len(kernel) - 1))
            for kernel in kernels[:2]
        ]
        found.append((sum(of_pairs) - 2 * kernels[2].mean()).item())
    values = torch.tensor(found, dtype=torch.float64)
    return values.mean().item(), (values.std() / BLOCKS**0.5).item()
