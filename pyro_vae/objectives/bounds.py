r"""Bounds on log p(x), as functions of the terms of a minibatch.

Each takes the terms and beta, and returns a bound for each image, `(B,)`, in
nats, which is maximized by the gradient that autograd finds. beta is the weight
of log q(z | x) - log p(z) in the log-weights:

.. math:: \log w = \log p(x \mid z) + \beta (\log p(z) - \log q(z \mid x))
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.objectives.analytic import compute_kl
from pyro_vae.objectives.terms import Latent, Terms

Bound = Callable[[Terms, Tensor | float], Tensor]
DimensionKL = Callable[[Latent], Tensor]


def elbo(terms: Terms, beta: Tensor | float) -> Tensor:
    r"""Returns the mean of the log-weights.

    .. math:: \frac{1}{S} \sum_s \log w_s
    """
    return (terms.log_likelihood - beta * terms.log_ratio()).mean(0)


def analytic_elbo(terms: Terms, beta: Tensor | float) -> Tensor:
    r"""Returns the ELBO with its KL in closed form.

    .. math:: \frac{1}{S} \sum_s \log p(x \mid z_s) - \beta KL(q, p)

    Raises:
        ValueError: If the KL has no closed form.
    """
    kl = sum(compute_kl(latent.q, latent.p) for latent in terms.latents)
    return (terms.log_likelihood - beta * kl).mean(0)


def stl(terms: Terms, beta: Tensor | float) -> Tensor:
    """Returns the ELBO, with a gradient in phi that leaves out q's score.

    That gradient vanishes for every sample where q is the exact posterior.

    References:
        Sticking the Landing: Simple, Lower-Variance Gradient Estimators for
        Variational Inference, G. Roeder, Y. Wu and D. Duvenaud, 2017.
    """
    return (terms.log_likelihood - beta * terms.path_log_ratio()).mean(0)


def renyi(terms: Terms, beta: Tensor | float, alpha: float) -> Tensor:
    r"""Returns the variational Renyi bound.

    .. math:: \frac{1}{1 - \alpha}
        \log \frac{1}{S} \sum_s w_s^{1 - \alpha}

    At alpha = 0 it is the importance-weighted bound.

    Args:
        terms: The terms of a minibatch.
        beta: The weight of the latents' log-densities in the log-weights.
        alpha: The order, not 1.

    References:
        Importance Weighted Autoencoders, Y. Burda, R. Grosse and
        R. Salakhutdinov, 2015.
        Renyi Divergence Variational Inference, Y. Li and R. E. Turner, 2016.
    """
    log_weight = terms.log_likelihood - beta * terms.log_ratio()
    return _log_mean_exp((1 - alpha) * log_weight) / (1 - alpha)


def dreg(terms: Terms, beta: Tensor | float) -> Tensor:
    r"""Returns the importance-weighted bound, doubly reparameterized.

    Its gradient in theta is that of the bound, and its gradient in phi is

    .. math:: \sum_s \tilde{w}_s^2 \,
        \frac{\partial \log w_s}{\partial z_s} \nabla_\phi z_s, \quad
        \tilde{w}_s = w_s / \sum_r w_r

    References:
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives,
        G. Tucker, D. Lawson, S. Gu and C. J. Maddison, 2018.
    """
    log_weight = terms.log_likelihood - beta * terms.path_log_ratio()
    weight = log_weight.detach().softmax(0)
    for latent in terms.latents:
        if latent.z.requires_grad:
            _scale_gradient(latent.z, weight)
    return _log_mean_exp(log_weight)


def free_bits(
    terms: Terms,
    beta: Tensor | float,
    nats: float,
    kl: DimensionKL,
    pool: Callable[[Tensor], Tensor] = lambda mean: mean,
) -> Tensor:
    r"""Returns the ELBO with a floor under the KL of each latent dimension.

    .. math:: \frac{1}{S} \sum_s \log p(x \mid z_s) - \beta \sum_{p=1}^P
        \max(\lambda, \frac{1}{B} \sum_b KL_{bp})

    Args:
        terms: The terms of a minibatch.
        beta: The weight of the KL.
        nats: lambda, the floor for each latent dimension, in nats.
        kl: `kl(latent)` is the KL of each dimension of a latent site,
            `(..., B, P)`, in nats.
        pool: Returns the mean over the whole minibatch of a mean over a
            process's part of it; here it has all.

    Raises:
        ValueError: If the dimensions of a latent site are not independent.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow,
        D. P. Kingma et al., 2016.
    """
    floored = sum(
        pool(kl(latent).flatten(0, -2).mean(0)).clamp(min=nats).sum()
        for latent in terms.latents
    )
    return terms.log_likelihood.mean(0) - beta * floored


def sampled_dimension_kl(latent: Latent) -> Tensor:
    """Returns log q - log p of each dimension, `(..., B, P)`, in nats.

    Raises:
        ValueError: If the dimensions are not independent.
    """
    q, p = _factors(latent)
    return q.log_prob(latent.z) - p.log_prob(latent.z)


def analytic_dimension_kl(latent: Latent) -> Tensor:
    """Returns the KL of each dimension in closed form, `(..., B, P)`, in nats.

    Raises:
        ValueError: If the dimensions are not independent, or if the KL has no
            closed form.
    """
    return compute_kl(*_factors(latent))


def _factors(latent: Latent) -> list[Distribution]:
    """Returns guide and prior as distributions of the single dimensions."""
    factors: list[Distribution] = []
    for whose, whole in (("guide", latent.q), ("prior", latent.p)):
        if not (
            isinstance(whole, torch.distributions.Independent)
            and whole.reinterpreted_batch_ndims == 1
            and not whole.base_dist.event_shape
        ):
            raise ValueError(
                f"free_bits was given, but the {whose} is "
                f"{type(whole).__name__}; expected independent dimensions, "
                "each with a KL of its own: leave it out"
            )
        factors.append(whole.base_dist)
    return factors


def _log_mean_exp(values: Tensor) -> Tensor:
    """Returns the logarithm of the mean of exponentials, over dimension 0."""
    return values.logsumexp(0) - math.log(len(values))


def _scale_gradient(z: Tensor, weight: Tensor) -> None:
    """Multiplies the gradient that flows back into z by weights `(S, B)`."""
    weight = weight.view(z.shape[:-1]).unsqueeze(-1)
    z.register_hook(lambda gradient: weight * gradient)
