"""The ELBO of images: of each, and in the mean over a data set."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.evaluation.result import LogMarginal
from pyro_vae.parts.distributions.one_hots import MOST_STATES
from pyro_vae.randomness import random_stream
from pyro_vae.svi import NonFiniteLossError, Shards, compile_graph
from pyro_vae.vae import VAE

EVALUATION_BATCH = 1000  # images
EVALUATION_ROWS = 64_000  # images times discrete states
BLOCKS = 20  # of samples; their spread is the standard error

Sums = Callable[..., Sequence[Tensor]]  # of images, and labels if there are


@torch.no_grad()
def mean_elbo_terms(
    vae: VAE,
    images: Tensor,
    seed: int = 0,
    compute_sums: Sums | None = None,
    labels: Tensor | None = None,
    shards: Shards | None = None,
) -> tuple[float, float]:
    """Estimates the two terms of the ELBO with one sample of z per image.

    Each batch of images has noise of its own, so that the processes of a fit
    can share the batches.

    Args:
        vae: The VAE.
        images: `(N, D)`, on the device of the VAE.
        seed: The seed of the noise, which is the same at every call.
        compute_sums: Returns the sums of the two terms over images; by
            default `sum_terms`.
        labels: The images' labels, `(N,)`, of a conditional VAE.
        shards: Processes that share the batches; by default this one alone.

    Returns:
        The means over the images of the expected log-likelihood and of the
        KL, in nats; the ELBO is their difference.

    Raises:
        NonFiniteLossError: If one is NaN or infinite.
    """
    compute_sums = compute_sums or partial(sum_terms, vae)
    shards = shards or Shards()
    batches = [*zip_batches(images, labels, evaluation_batch(vae))]
    with shards.failing_together(), evaluation_mode(vae):
        sums = _sum_batches(compute_sums, batches, seed, shards)
    sums = torch.stack(shards.gather(sums)).sum(0)
    expected_log_likelihood, kl = (sums / len(images)).tolist()
    if not math.isfinite(expected_log_likelihood - kl):
        raise NonFiniteLossError(
            "the evaluation is not finite: the mean expected log-likelihood "
            f"is {expected_log_likelihood} and the mean KL is {kl}: try a "
            "smaller learning_rate or init_std"
        )
    return expected_log_likelihood, kl


def _sum_batches(
    compute_sums: Sums,
    batches: Sequence[tuple[Tensor, ...]],
    seed: int,
    shards: Shards,
) -> Tensor:
    """Returns the sums of the two terms over this process's batches, `(2,)`."""
    sums = torch.zeros(2, dtype=torch.float64)
    with pyro.validation_enabled(False):
        for number in range(shards.rank, len(batches), shards.world_size):
            batch = batches[number]
            with random_stream(seed, 0, batch[0].device, number):
                sums += torch.stack(list(compute_sums(*batch))).cpu()
    return sums


@torch.no_grad()
def estimate_elbo(
    vae: VAE, x: Tensor, num_samples: int, q: Distribution | None = None
) -> LogMarginal:
    """Estimates each image's ELBO, a lower bound of log p(x).

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        num_samples: The number of samples of z for each image; it is rounded
            down to a multiple of 20, and 20 at least.
        q: q(z | x), batch shape `(B,)`; by default `vae.infer(x)`.
    """
    size = max(1, num_samples // BLOCKS)
    draws = torch.stack(
        [vae.compute_elbo(x, size, q).double() for _ in range(BLOCKS)]
    )
    return LogMarginal(draws.mean(0), draws.std(0) / BLOCKS**0.5)


def evaluation_batch(vae: VAE) -> int:
    """Returns how many images to evaluate at a time, for a bounded memory."""
    return min(EVALUATION_BATCH, max(1, EVALUATION_ROWS // vae.num_states))


@torch.no_grad()
def has_numbered_states(vae: VAE) -> bool:
    """Returns whether there are discrete states, and integers for them all."""
    return 1 < vae.num_states <= MOST_STATES


def assign(vae: VAE, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Returns each image's most probable state, `(N,)`, on the CPU."""
    batches = zip_batches(images, labels, EVALUATION_BATCH)
    with evaluation_mode(vae):
        return torch.cat([vae.assign(*batch).cpu() for batch in batches])


@contextmanager
def evaluation_mode(vae: VAE) -> Iterator[None]:
    """Puts a VAE into evaluation mode for a block, as `vae.eval()` does.

    After the block each of its modules is in the mode that it was in before.
    """
    modes = [(module, module.training) for module in vae.modules()]
    vae.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def zip_batches(
    images: Tensor, labels: Tensor | None, size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yields batches of images, each with their labels if there are any."""
    if labels is None:
        return zip(images.split(size), strict=True)
    return zip(images.split(size), labels.split(size), strict=True)


def sum_terms(
    vae: VAE, x: Tensor, labels: Tensor | None = None
) -> list[Tensor]:
    """Returns the sums over images of the ELBO's two terms.

    They are the expected log-likelihood and the KL, from one sample of z for
    each image: scalars, in nats, in double precision.
    """
    with torch.no_grad():
        return [
            term.double().sum()
            for term in vae.compute_elbo_terms(x, labels=labels)
        ]


def compile_sums(
    vae: VAE, images: Tensor, labels: Tensor | None = None
) -> Sums:
    """Returns `sum_terms`, compiled for whole batches of images.

    Args:
        vae: The VAE.
        images: The images that it is for, `(N, D)`; where they do not fill a
            batch, nothing is compiled.
        labels: Their labels, `(N,)`, of a conditional VAE.

    Raises:
        CompilationError: If the machine cannot compile.
        DynamicPairError: If the VAE is not static.
    """
    eager, size = partial(sum_terms, vae), evaluation_batch(vae)
    if len(images) < size:
        return eager
    with evaluation_mode(vae):
        modules = list(vae.modules())
        first = list(next(zip_batches(images, labels, size)))
        compiled = compile_graph(eager, first, modules=modules)
    return lambda x, *y: (compiled if len(x) == size else eager)(x, *y)
