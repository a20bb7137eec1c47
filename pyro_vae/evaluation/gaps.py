"""Where the bound loses: in the guide's family, or in amortising it."""

from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.evaluation.grid import log_joint
from pyro_vae.evaluation.log_marginal import log_marginal_likelihood
from pyro_vae.evaluation.quadrature import check_quadrature
from pyro_vae.inference import EStep, ImageParameters
from pyro_vae.parts.distributions import OneHots
from pyro_vae.randomness import random_stream
from pyro_vae.vae import VAE

RATES = (0.1, 0.03, 0.01)  # of the E-steps, a third of them each
BLOCKS = 20  # of samples; their spread is the standard error
SIDE = 64  # grid points along each axis for KL(q, posterior)


@dataclass(frozen=True)
class Gaps:
    r"""log p(x) - ELBO, split in two; each tensor `(B,)`, in nats.

    Attributes:
        log_marginal_likelihood: log p(x).
        elbo: The ELBO of the guide as it is.
        elbo_error: Its standard error.
        best_elbo: That of the best member of the guide's family, found for
            each image by itself.
        best_elbo_error: Its standard error.
        features: That member's parameters, `(B, F)`.
    """

    log_marginal_likelihood: Tensor
    elbo: Tensor
    elbo_error: Tensor
    best_elbo: Tensor
    best_elbo_error: Tensor
    features: Tensor

    @property
    def approximation(self) -> Tensor:
        """KL(best q, posterior): what the family cannot do."""
        return self.log_marginal_likelihood - self.best_elbo

    @property
    def amortization(self) -> Tensor:
        """What the encoder loses against each image's best q."""
        return self.best_elbo - self.elbo


def gaps(
    vae: VAE,
    x: Tensor,
    method: str | None = None,
    num_steps: int = 300,
    num_particles: int = 8,
    num_samples: int = 1000,
    seed: int = 0,
) -> Gaps:
    r"""Splits the gap between log p(x) and the ELBO.

    .. math:: \log p(x) - \text{ELBO}(q) =
        \underbrace{\log p(x) - \text{ELBO}(q^*)}_{\text{approximation}} +
        \underbrace{\text{ELBO}(q^*) - \text{ELBO}(q)}_{\text{amortisation}}

    Args:
        vae: Its guide has `encoder` and `family`.
        x: Images, `(B, D)`.
        method: For log p(x), see `log_marginal_likelihood`; by default exact
            if the latents are discrete, quadrature up to two dimensions, and
            importance beyond.
        num_steps: E-steps for each image's own q, from the guide's and from
            the family's origin, of which the better one counts.
        num_particles: Samples of z in their gradient.
        num_samples: Samples of z per image in each ELBO.
        seed: Of the samples.

    References:
        Inference Suboptimality in Variational Autoencoders, C. Cremer, X. Li
        and D. Duvenaud, 2018.
    """
    exact = log_marginal_likelihood(
        vae, x, method=method or default_method(vae), seed=seed
    ).value
    with (
        random_stream(seed, 0, x.device),
        pyro.validation_enabled(False),
        evaluation_mode(vae),
    ):
        elbo = estimate_elbo(vae, x, vae.infer(x), num_samples)
        with torch.no_grad():
            start = vae.guide.encode(x)
        candidates = []
        for features in (start, torch.zeros_like(start)):
            local = ImageParameters.start(features)
            for rate in RATES:
                step = EStep(num_particles, rate)
                local, _ = step.run(vae, x, local, num_steps // len(RATES))
                local = ImageParameters.start(local.parameters)
            candidates.append(local.parameters)
        family = vae.guide.family
        candidates = torch.stack([*candidates, start])
        values = torch.stack(
            [
                estimate_elbo(vae, x, family(features), num_samples)[0]
                for features in candidates
            ]
        )
        winner = values.argmax(0)
        features = candidates[winner, torch.arange(len(x), device=x.device)]
        # By fresh samples: the winner's own ones made it win.
        best, error = estimate_elbo(vae, x, family(features), num_samples)
    return Gaps(exact, *elbo, best, error, features)


def default_method(vae: VAE) -> str:
    """The most exact method for log p(x) that a VAE allows."""
    prior = vae.prior()
    if isinstance(prior, OneHots):
        return "exact"
    return "quadrature" if prior.event_shape[0] <= 2 else "importance"


@torch.no_grad()
def estimate_elbo(
    vae: VAE, x: Tensor, q, num_samples: int
) -> tuple[Tensor, Tensor]:
    """Each image's ELBO under q, and its standard error, `(B,)` each."""
    size = max(1, num_samples // BLOCKS)
    draws = torch.stack(
        [vae.compute_elbo(x, size, q).double() for _ in range(BLOCKS)]
    )
    return draws.mean(0), draws.std(0) / BLOCKS**0.5


@torch.no_grad()
def posterior_kl(vae: VAE, x: Tensor, log_marginal: Tensor) -> Tensor:
    r"""Integrates KL(q, p(z | x)) on a grid over q's bulk.

    .. math:: \int q(z \mid x) \log \frac{q(z \mid x) p(x)}{p(x, z)} dz

    which must equal log p(x) - ELBO.

    Args:
        vae: Of one or two continuous latent dimensions.
        x: Images, `(B, D)`.
        log_marginal: log p(x), `(B,)`.

    Returns:
        `(B,)`, in nats.
    """
    check_quadrature(vae)
    kl = []
    with evaluation_mode(vae), random_stream(0, 0, x.device):
        for image, total in zip(x.split(1), log_marginal, strict=True):
            q = vae.infer(image)
            draws = q.sample((2000,)).squeeze(1)
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
