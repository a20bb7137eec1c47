r"""Annealed importance sampling, from the prior to the posterior.

Chains go from the prior through :math:`f_\beta(z) = p(z) p(x \mid z)^\beta` to
the posterior, by Hamiltonian transitions, and

.. math:: \log w = \sum_t (\beta_t - \beta_{t-1}) \log p(x \mid z_t),
    \quad E w = p(x).

It is our own: Pyro has none, and its HMC moves one chain with one step size.
Here all chains of all images move together, each image with step sizes of its
own at each temperature.
"""

import math
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.evaluation.result import CONTINUOUS, LogMarginal
from pyro_vae.randomness import random_stream
from pyro_vae.vae import VAE

TARGET = 0.65  # acceptance rate of the transitions
LEAPFROG = 10  # steps in a transition
ADAPTATIONS = 2  # passes before the one that measures
FIRST_STEP = 0.1  # size of a leapfrog step before it is adapted


@dataclass(frozen=True, kw_only=True)
class Annealed(LogMarginal):
    """Annealed estimates of log p(x), in the mean too low.

    Attributes:
        acceptance: The mean acceptance rate of each image's transitions,
            `(B,)`.
        upper_bound: For simulated data, estimates of log p(x) that are in the
            mean too high, `(B,)`, in nats; None otherwise.
    """

    acceptance: Tensor
    upper_bound: Tensor | None = None


def annealed_bound(
    vae: VAE,
    x: Tensor,
    num_chains: int = 16,
    num_temperatures: int = 200,
    seed: int = 0,
    z: Tensor | None = None,
) -> Annealed:
    """Estimates log p(x) without trusting the guide.

    The first passes adapt each image's step size at each temperature; the last
    one, whose steps are then fixed and its weights unbiased, measures.

    Args:
        vae: A VAE with continuous latents.
        x: Images, `(B, D)`.
        num_chains: C, the number of chains for each image.
        num_temperatures: The number of intermediate distributions.
        seed: The seed of all randomness.
        z: Where `x` was simulated from the model, the latents that it came
            from, `(B, P)`: exact draws of the posterior, from which chains go
            back to the prior and bound log p(x) from above.

    Raises:
        ValueError: If the latents are discrete.

    References:
        Annealed Importance Sampling, R. M. Neal, 2001. Sandwiching the
        Marginal Likelihood Using Bidirectional Monte Carlo, R. Grosse,
        Z. Ghahramani and R. P. Adams, 2015.
    """
    CONTINUOUS.check(vae.prior(), "annealed importance sampling")
    with (
        random_stream(seed, 0, x.device),
        pyro.validation_enabled(False),
        evaluation_mode(vae),
    ):
        chains = _Chains(vae, x, num_temperatures)
        chains.adapt(num_chains)
        log_weight, acceptance = chains.rise(num_chains)
        upper = None
        if z is not None:
            upper = -_log_mean(chains.fall(num_chains, z))[0]
    value, error = _log_mean(log_weight)
    return Annealed(value, error, acceptance=acceptance, upper_bound=upper)


def _log_mean(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the log of the mean weight, and its standard error.

    By the delta method the error is that of the mean, relative to the mean.

    Args:
        log_weight: The log-weights of C chains for each image, `(C, B)`.
    """
    num_chains = len(log_weight)
    value = log_weight.logsumexp(0) - math.log(num_chains)
    variance = (log_weight - value).exp().var(0) / num_chains
    return value, variance.sqrt()


class _Chains:
    """Hamiltonian chains, vectorized over chains and images."""

    def __init__(self, vae: VAE, x: Tensor, num_temperatures: int):
        self.vae, self.x = vae, x
        # Slow at both ends, where the distributions change fastest.
        steps = torch.linspace(-4, 4, num_temperatures + 1).sigmoid().to(x)
        self.betas = (steps - steps[0]) / (steps[-1] - steps[0])
        self.sizes = torch.full((num_temperatures, len(x)), FIRST_STEP).to(x)

    def adapt(self, num_chains: int) -> None:
        """Adapts the sizes of the leapfrog steps."""
        start = self.vae.prior().sample((num_chains, len(self.x)))
        for _ in range(ADAPTATIONS):
            self.run(start, self.betas, self.sizes, adapt=True)

    def rise(self, num_chains: int) -> tuple[Tensor, Tensor]:
        """Anneals draws of the prior; the log-weights `(C, B)`, acceptance."""
        start = self.vae.prior().sample((num_chains, len(self.x)))
        return self.run(start, self.betas, self.sizes)

    def fall(self, num_chains: int, z: Tensor) -> Tensor:
        """Anneals draws of the posterior back; the log-weights, `(C, B)`."""
        start = z.expand(num_chains, *z.shape)
        return self.run(start, self.betas.flip(0), self.sizes.flip(0))[0]

    def run(
        self, z: Tensor, betas: Tensor, sizes: Tensor, adapt: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Anneals latents `(C, B, P)`; the log-weights `(C, B)`, acceptance.

        Going up, a transition follows each change of temperature; going down
        each precedes it, which makes the two the reverse of each other.
        """
        goes_up = betas[0] < betas[-1]
        log_weight = z.new_zeros(z.shape[:-1], dtype=torch.float64)
        accepted = z.new_zeros(z.shape[1])
        steps = zip(betas[:-1], betas[1:], sizes, strict=True)
        for before, after, size in steps:
            if not goes_up:
                z, rate = self.move(z, before, size)
            with torch.no_grad():
                likelihood = self.vae.likelihood(z).log_prob(self.x)
                log_weight += ((after - before) * likelihood).double()
            if goes_up:
                z, rate = self.move(z, after, size)
            accepted += rate / len(sizes)
            if adapt:  # in place, for the runs to come
                size.mul_(torch.exp(rate - TARGET))
        return log_weight, accepted

    def move(
        self, z: Tensor, beta: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Makes a transition; the new latents, each image's acceptance rate."""
        step = size.view(1, -1, 1)
        momentum = torch.randn_like(z)
        energy, force = self.density(z, beta)
        start = energy - 0.5 * momentum.square().sum(-1)
        new = z
        for _ in range(LEAPFROG):
            momentum = momentum + 0.5 * step * force
            new = new + step * momentum
            energy, force = self.density(new, beta)
            momentum = momentum + 0.5 * step * force
        log_ratio = energy - 0.5 * momentum.square().sum(-1) - start
        accept = torch.rand_like(log_ratio).log() < log_ratio
        rate = log_ratio.nan_to_num(-math.inf).exp().clamp(max=1).mean(0)
        return torch.where(accept.unsqueeze(-1), new, z), rate

    def density(self, z: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log p(z) + beta log p(x | z), and its gradient in z."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            value = self.vae.prior().log_prob(z)
            value = value + beta * self.vae.likelihood(z).log_prob(self.x)
            (force,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), force
