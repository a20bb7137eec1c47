"""The importance-weighted bound, with the guide as proposal.

It is our own: Pyro's importance sampling takes a trace for each sample, or
holds all samples of all images at once. Here memory is bounded, and samples are
decoded in chunks that stay in the cache.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import pyro
import torch
from torch import Tensor

from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.evaluation.result import LogMarginal
from pyro_vae.randomness import random_stream
from pyro_vae.svi import CompilationError, DynamicPairError, compile_graph
from pyro_vae.vae import VAE

ROWS = 2000  # latents decoded at a time: the decoder's output stays in cache
COMPILE_FROM = 2_000_000  # latents, from which compilation pays


def log_weights(
    vae: VAE, x: Tensor, num_samples: int, parameters: Tensor | None = None
) -> Tensor:
    """Returns log p(x, z) - log q(z | x) for z from the guide.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        num_samples: S, the number of samples for each image.
        parameters: q's parameters, `(B, F)`, if they have been found already.

    Returns:
        `(S, B)`, in nats.
    """
    q = vae.infer(x) if parameters is None else vae.guide.family(parameters)
    draw = q.rsample if q.has_rsample else q.sample
    z = draw(torch.Size([num_samples]))
    log_p = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    return log_p - q.log_prob(z)


@torch.no_grad()
def importance_bound(
    vae: VAE, x: Tensor, num_samples: int, seed: int = 0
) -> LogMarginal:
    r"""Estimates log p(x) by importance sampling; in the mean it is too low.

    .. math:: \log \frac{1}{S} \sum_s \frac{p(x, z_s)}{q(z_s \mid x)},
        \quad z_s \sim q(z \mid x)

    Samples come in chunks, so that memory depends on neither B nor S; the
    chunks' computation is compiled where it pays.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        num_samples: S, the number of samples for each image.
        seed: The seed of the samples.

    Returns:
        The bound, with its standard error by the delta method, which is too
        small where few samples carry the weight, and the effective sample
        sizes, :math:`(\sum w)^2 / \sum w^2`.

    References:
        Importance Weighted Autoencoders, Y. Burda, R. Grosse and
        R. Salakhutdinov, 2015.
    """
    with (
        random_stream(seed, 0, x.device),
        pyro.validation_enabled(False),
        evaluation_mode(vae),
    ):
        log_sum, log_square = _sum_weights(vae, x, num_samples)
    effective = (2 * log_sum - log_square).exp()
    variance = (1 / effective - 1 / num_samples).clamp(min=0)
    bound = log_sum - math.log(num_samples)
    return LogMarginal(bound, variance.sqrt(), effective)


def _sum_weights(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    """Returns what `_log_sums` does, chunk by chunk: `(2, B)`."""
    size = min(num_samples, max(1, ROWS // min(len(x), 40)))
    images = max(1, ROWS // size)
    # E-steps are taken once, not for every chunk of samples.
    parameters = vae.inference.infer(vae, x)
    inputs = [x] if parameters is None else [x, parameters]
    compute: Callable[..., Sequence[Tensor]] = partial(_log_sums, vae, size)
    if len(x) * num_samples >= COMPILE_FROM and len(x) >= images:
        first = [tensor[:images] for tensor in inputs]
        compute = _compile_if_possible(vae, compute, first)
    sums = []
    for group in zip(*[t.split(images) for t in inputs], strict=True):
        shape = (2, len(group[0]))
        total = x.new_full(shape, -math.inf, dtype=torch.float64)
        for start in range(0, num_samples, size):
            count = min(size, num_samples - start)
            is_whole = count == size and len(group[0]) == images
            chunk = compute if is_whole else partial(_log_sums, vae, count)
            total = torch.logaddexp(total, *chunk(*group))
        sums.append(total)
    return torch.cat(sums, dim=1)


def _log_sums(
    vae: VAE, num_samples: int, x: Tensor, parameters: Tensor | None = None
) -> list[Tensor]:
    """Returns the logs of the weights' and their squares' sums, `(2, B)`."""
    with torch.no_grad():
        weights = log_weights(vae, x, num_samples, parameters).double()
        both = [weights.logsumexp(0), (2 * weights).logsumexp(0)]
        return [torch.stack(both)]


def _compile_if_possible(
    vae: VAE,
    compute: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
) -> Callable[..., Sequence[Tensor]]:
    """Returns the function compiled, or as it is if it cannot be."""
    try:
        return compile_graph(compute, inputs, modules=list(vae.modules()))
    except (CompilationError, DynamicPairError):
        return compute
