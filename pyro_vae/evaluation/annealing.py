"""Annealed importance sampling, from the prior to the posterior."""

import math
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.randomness import random_stream
from pyro_vae.vae import VAE

TARGET = 0.65  # acceptance rate of the transitions
LEAPFROG = 10  # steps in a transition


@dataclass(frozen=True)
class Annealed:
    """Annealed estimates of log p(x).

    Attributes:
        log_marginal_likelihood: `(B,)`, in nats; in the mean too low.
        standard_error: Of it, over chains, by the delta method, `(B,)`.
        acceptance: The mean acceptance rate of the transitions, `(B,)`.
        upper_bound: For simulated data, `(B,)`, in the mean too high.
    """

    log_marginal_likelihood: Tensor
    standard_error: Tensor
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
    r"""Estimates log p(x) without trusting the guide.

    Chains go from the prior through
    :math:`f_\beta(z) = p(z) p(x \mid z)^\beta` to the posterior, by
    Hamiltonian transitions, and

    .. math:: \log w = \sum_t (\beta_t - \beta_{t-1}) \log p(x \mid z_t),
        \quad E w = p(x).

    A first pass adapts each image's step size at each temperature; a second
    one, whose steps are then fixed and its weights unbiased, measures.

    Args:
        vae: Of continuous latents.
        x: Images, `(B, D)`.
        num_chains: Chains for each image.
        num_temperatures: Intermediate distributions.
        seed: Of all randomness.
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
    if vae.prior().has_enumerate_support:
        raise ValueError(
            "the latents are discrete; expected continuous ones for annealed "
            "importance sampling: use method exact"
        )
    # Slow at both ends, where the distributions change fastest.
    steps = torch.linspace(-4, 4, num_temperatures + 1).sigmoid().to(x)
    betas = (steps - steps[0]) / (steps[-1] - steps[0])
    with (
        random_stream(seed, 0, x.device),
        pyro.validation_enabled(False),
        evaluation_mode(vae),
    ):
        chains = _Chains(vae, x)
        start = vae.prior().sample((num_chains, len(x)))
        sizes = torch.full((num_temperatures, len(x)), 0.1).to(x)
        for _ in range(2):
            chains.run(start, betas, sizes, adapt=True)
        start = vae.prior().sample((num_chains, len(x)))
        log_weight, acceptance = chains.run(start, betas, sizes)
        upper = None
        if z is not None:
            start = z.expand(num_chains, *z.shape)
            backward, _ = chains.run(start, betas.flip(0), sizes.flip(0))
            upper = -(backward.logsumexp(0) - math.log(num_chains))
    bound = log_weight.logsumexp(0) - math.log(num_chains)
    relative = (log_weight - bound).exp().var(0) / num_chains
    return Annealed(bound, relative.sqrt(), acceptance, upper)


class _Chains:
    """Hamiltonian chains, vectorised over chains and images."""

    def __init__(self, vae: VAE, x: Tensor):
        self.vae, self.x = vae, x

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
        """One Hamiltonian transition, and each image's acceptance rate."""
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
        """log p(z) + beta log p(x | z), and its gradient in z."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            value = self.vae.prior().log_prob(z)
            value = value + beta * self.vae.likelihood(z).log_prob(self.x)
            (force,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), force
