"""The importance-weighted bound, with the guide as proposal."""

import math
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.randomness import random_stream
from pyro_vae.svi import CompilationError, DynamicPairError, compile_graph
from pyro_vae.vae import VAE

ROWS = 2000  # latents decoded at a time: the decoder's output stays in cache
COMPILE_FROM = 2_000_000  # latents, from which compilation pays


@dataclass(frozen=True)
class Importance:
    """Importance-weighted estimates of log p(x).

    Attributes:
        log_marginal_likelihood: The bound, `(B,)`, in nats.
        standard_error: Of it, by the delta method, `(B,)`: too small where
            few samples carry the weight.
        effective_sample_size: :math:`(\\sum w)^2 / \\sum w^2`, `(B,)`.
    """

    log_marginal_likelihood: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


def log_weights(
    vae: VAE, x: Tensor, num_samples: int, features: Tensor | None = None
) -> Tensor:
    """Returns log p(x, z) - log q(z | x) for z from the guide.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        num_samples: S.
        features: q's parameters, `(B, F)`, if they have been found already.

    Returns:
        `(S, B)`, in nats.
    """
    known = features is not None and features.numel()
    q = vae.guide.family(features) if known else vae.infer(x)
    z = (q.rsample if q.has_rsample else q.sample)((num_samples,))
    log_p = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    return log_p - q.log_prob(z)


@torch.no_grad()
def importance_bound(
    vae: VAE, x: Tensor, num_samples: int, seed: int = 0
) -> Importance:
    r"""Estimates log p(x) by importance sampling; in the mean it is too low.

    .. math:: \log \frac{1}{S} \sum_s \frac{p(x, z_s)}{q(z_s \mid x)},
        \quad z_s \sim q(z \mid x)

    Samples come in chunks, so that memory depends on neither B nor S; the
    chunks' computation is compiled where it pays.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        num_samples: S.
        seed: Of the samples.

    References:
        Importance Weighted Autoencoders, Y. Burda, R. Grosse and
        R. Salakhutdinov, 2015.
    """
    size = min(num_samples, max(1, ROWS // min(len(x), 40)))
    images = max(1, ROWS // size)
    with (
        random_stream(seed, 0, x.device),
        pyro.validation_enabled(False),
        evaluation_mode(vae),
    ):
        # E-steps are taken once, not for every chunk of samples.
        features = x[:, :0] if vae.inference.is_amortized else vae.inference.infer(vae, x)
        compute = _chunk(vae, x, features, images, size, num_samples)
        sums = [
            _accumulate(vae, *parts, num_samples, size, images, compute)
            for parts in zip(
                x.split(images), features.split(images), strict=True
            )
        ]
    log_sum, log_square = torch.cat(sums, dim=1)
    effective = (2 * log_sum - log_square).exp()
    variance = (1 / effective - 1 / num_samples).clamp(min=0)
    bound = log_sum - math.log(num_samples)
    return Importance(bound, variance.sqrt(), effective)


def _sums(
    vae: VAE, x: Tensor, features: Tensor, num_samples: int
) -> list[Tensor]:
    """The logs of the sums of the weights and of their squares, `(2, B)`."""
    with torch.no_grad():
        weights = log_weights(vae, x, num_samples, features).double()
        both = [weights.logsumexp(0), (2 * weights).logsumexp(0)]
        return [torch.stack(both)]


def _chunk(vae, x, features, images, size, num_samples):
    """`_sums` for whole chunks, compiled if that pays and is possible."""

    def compute(x: Tensor, features: Tensor) -> list[Tensor]:
        return _sums(vae, x, features, size)

    if len(x) * num_samples < COMPILE_FROM or len(x) < images:
        return compute
    try:
        inputs = [x[:images], features[:images]]
        return compile_graph(compute, inputs, modules=list(vae.modules()))
    except (CompilationError, DynamicPairError):
        return compute


def _accumulate(vae, x, features, num_samples, size, images, compute) -> Tensor:
    """All of some images' samples, chunk by chunk: `(2, B)`."""
    total = torch.full((2, len(x)), -math.inf, dtype=torch.float64)
    total = total.to(x.device)
    left = num_samples
    while left > 0:
        is_whole = left >= size and len(x) == images
        count = min(size, left)
        (sums,) = (
            compute(x, features) if is_whole else _sums(vae, x, features, count)
        )
        total = torch.logaddexp(total, sums)
        left -= count
    return total
