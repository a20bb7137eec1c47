"""Where the bound loses: in the guide's family, or in amortizing it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import pyro
import torch
from torch import Tensor

from pyro_vae.evaluation.by_label import by_label, split_labels
from pyro_vae.evaluation.elbo import estimate_elbo, evaluation_mode
from pyro_vae.evaluation.grid import log_joint
from pyro_vae.evaluation.log_marginal import (
    default_method,
    log_marginal_likelihood,
)
from pyro_vae.evaluation.result import FEW
from pyro_vae.inference import EStep, ImageParameters
from pyro_vae.parts.likelihoods import check_data
from pyro_vae.randomness import random_stream
from pyro_vae.vae import VAE

RATES = (0.1, 0.03, 0.01)  # of the E-steps, a third of them each
SIDE = 64  # grid points along each axis for KL(q, posterior)


@dataclass(frozen=True)
class Gaps:
    r"""The gap log p(x) - ELBO of each image, split in two.

    Attributes:
        log_marginal_likelihood: log p(x), `(B,)`, in nats.
        elbo: The ELBO of the guide as it is, `(B,)`, in nats.
        elbo_error: The standard error of `elbo`, `(B,)`.
        best_elbo: The ELBO of the best member of the guide's family, which is
            found for each image by itself, `(B,)`, in nats.
        best_elbo_error: The standard error of `best_elbo`, `(B,)`.
        parameters: The unconstrained parameters of that member, `(B, F)`.
    """

    log_marginal_likelihood: Tensor
    elbo: Tensor
    elbo_error: Tensor
    best_elbo: Tensor
    best_elbo_error: Tensor
    parameters: Tensor

    @staticmethod
    def join(parts: Sequence["Gaps"]) -> "Gaps":
        """Returns the gaps of several minibatches as one."""
        names = [field.name for field in fields(Gaps)]
        columns = [[getattr(part, name) for part in parts] for name in names]
        return Gaps(*map(torch.cat, columns))

    @property
    def approximation(self) -> Tensor:
        """KL(best q, posterior), `(B,)`, in nats: what the family cannot do."""
        return self.log_marginal_likelihood - self.best_elbo

    @property
    def amortization(self) -> Tensor:
        """What the encoder loses against the best q, `(B,)`, in nats."""
        return self.best_elbo - self.elbo


def split_gap(
    vae: VAE,
    x: Tensor,
    method: str | None = None,
    num_steps: int = 300,
    num_particles: int = 8,
    num_samples: int = 1000,
    seed: int = 0,
    labels: Tensor | None = None,
) -> Gaps:
    r"""Splits the gap between log p(x) and the ELBO.

    .. math:: \log p(x) - \text{ELBO}(q) =
        \underbrace{\log p(x) - \text{ELBO}(q^*)}_{\text{approximation}} +
        \underbrace{\text{ELBO}(q^*) - \text{ELBO}(q)}_{\text{amortization}}

    Args:
        vae: A VAE whose guide is an `AmortizedGuide`.
        x: Images, `(B, D)`.
        method: The method for log p(x); by default `default_method(vae)`.
        num_steps: The number of E-steps for each image's own q.
        num_particles: The number of samples of z in their gradient.
        num_samples: The number of samples of z per image in each ELBO.
        seed: The seed of all samples.
        labels: The images' labels, `(B,)`, of a conditional VAE.

    Raises:
        ValueError: If the method is unknown or cannot take the latents, or an
            image is outside the support of the likelihood.

    References:
        Inference Suboptimality in Variational Autoencoders, C. Cremer, X. Li
        and D. Duvenaud, 2018.
    """
    sizes = (num_steps, num_particles, num_samples)
    method = method or default_method(vae)
    check_data(vae.likelihood, x)
    split = partial(_split, method=method, sizes=sizes, seed=seed)
    return by_label(split, vae, x, labels)


def _split(
    vae: VAE, x: Tensor, method: str, sizes: tuple[int, int, int], seed: int
) -> Gaps:
    """Splits the gap of a VAE without labels, as `split_gap` says."""
    num_steps, num_particles, num_samples = sizes
    exact = log_marginal_likelihood(vae, x, method=method, seed=seed).value
    with (
        random_stream(seed, 0, x.device),
        pyro.validation_enabled(False),
        evaluation_mode(vae),
    ):
        own = estimate_elbo(vae, x, num_samples, vae.infer(x))
        steps = [EStep(num_particles, rate) for rate in RATES]
        found = _find_best(vae, x, steps, num_steps, num_samples)
        # By fresh samples: the winner's own ones made it win.
        best = estimate_elbo(vae, x, num_samples, vae.guide.family(found))
    return Gaps(exact, own.value, own.error, best.value, best.error, found)


def _find_best(
    vae: VAE, x: Tensor, steps: list[EStep], num_steps: int, num_samples: int
) -> Tensor:
    """Returns the parameters of each image's best q, `(B, F)`.

    E-steps start at the encoder's output and at the family's origin; the best
    of the two ends and the encoder's output itself counts.
    """
    with torch.no_grad():
        encoded = vae.guide.encode(x)
    ends = []
    for start in (encoded, torch.zeros_like(encoded)):
        images = ImageParameters.start(start)
        for step in steps:
            images, _ = step.run(vae, x, images, num_steps // len(steps))
            images = ImageParameters.start(images.parameters)
        ends.append(images.parameters)
    candidates = torch.stack([*ends, encoded])
    elbos = [
        estimate_elbo(vae, x, num_samples, vae.guide.family(parameters)).value
        for parameters in candidates
    ]
    winner = torch.stack(elbos).argmax(0)
    return candidates[winner, torch.arange(len(x), device=x.device)]


@torch.no_grad()
def posterior_kl(
    vae: VAE, x: Tensor, log_marginal: Tensor, labels: Tensor | None = None
) -> Tensor:
    r"""Integrates KL(q, p(z | x)) on a grid over q's bulk.

    .. math:: \int q(z \mid x) \log \frac{q(z \mid x) p(x)}{p(x, z)} dz

    which must equal log p(x) - ELBO.

    Args:
        vae: A VAE with one or two continuous latent dimensions.
        x: Images, `(B, D)`.
        log_marginal: log p(x), `(B,)`, in nats.
        labels: The images' labels, `(B,)`, of a conditional VAE.

    Returns:
        `(B,)`, in nats.

    Raises:
        ValueError: If the latents are discrete, or more than two.
    """
    FEW.check(vae.prior(), "a grid")
    if vae.num_labels:
        found = torch.empty_like(log_marginal)
        for member, index in split_labels(vae, labels):
            found[index] = posterior_kl(member, x[index], log_marginal[index])
        return found
    kl = []
    with evaluation_mode(vae), random_stream(0, 0, x.device):
        for image, total in zip(x.split(1), log_marginal, strict=True):
            q = vae.infer(image)
            draws = q.sample(torch.Size([2000])).squeeze(1)
            low, high = draws.amin(0), draws.amax(0)
            margin = (high - low) / 2
            side = (high - low + 2 * margin) / SIDE
            steps = torch.arange(SIDE, device=x.device).view(-1, 1) + 0.5
            steps = low - margin + side * steps
            z = torch.cartesian_prod(*steps.T).view(-1, len(low))
            log_q = q.log_prob(z.unsqueeze(1)).squeeze(1).double()
            joint = log_joint(vae, z, image.double()).squeeze(1)
            mass = log_q.exp() * side.double().prod()
            kl.append((mass * (log_q + total - joint)).sum())
    return torch.stack(kl)
