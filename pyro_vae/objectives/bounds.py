r"""Bounds as functions of a minibatch's terms: `(terms, beta)` to `(B,)` nats.

Each is to be maximised, and its gradient is autograd's. beta is the weight of
log q(z | x) - log p(z) in the log-weights:

.. math:: \log w = \log p(x \mid z) + \beta (\log p(z) - \log q(z \mid x))
"""

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.objectives.analytic import compute_kl
from pyro_vae.objectives.terms import Latent, Terms

Bound = Callable[[Terms, Tensor | float], Tensor]
DimensionKL = Callable[[Latent], Tensor]


def elbo(terms: Terms, beta: Tensor | float) -> Tensor:
    r"""The mean of the log-weights.

    .. math:: \frac{1}{S} \sum_s \log w_s
    """
    return (terms.log_likelihood - beta * terms.log_ratio()).mean(0)


def analytic_elbo(terms: Terms, beta: Tensor | float) -> Tensor:
    r"""The ELBO with its KL in closed form.

    .. math:: \frac{1}{S} \sum_s \log p(x \mid z_s) - \beta KL(q, p)
    """
    kl = sum(compute_kl(latent.q, latent.p) for latent in terms.latents)
    return (terms.log_likelihood - beta * kl).mean(0)


def stl(terms: Terms, beta: Tensor | float) -> Tensor:
    """The ELBO, with a gradient in phi that leaves out the score of q.

    It vanishes sample by sample where q is the exact posterior.

    References:
        Sticking the Landing: Simple, Lower-Variance Gradient Estimators for
        Variational Inference, G. Roeder, Y. Wu and D. Duvenaud, 2017.
    """
    return (terms.log_likelihood - beta * terms.path_log_ratio()).mean(0)


def renyi(terms: Terms, beta: Tensor | float, alpha: float) -> Tensor:
    r"""The variational Renyi bound; at alpha = 0 the importance-weighted one.

    .. math:: \frac{1}{1 - \alpha}
        \log \frac{1}{S} \sum_s w_s^{1 - \alpha}

    References:
        Importance Weighted Autoencoders, Y. Burda, R. Grosse and
        R. Salakhutdinov, 2015.
        Renyi Divergence Variational Inference, Y. Li and R. E. Turner, 2016.
    """
    log_weight = terms.log_likelihood - beta * terms.log_ratio()
    return _log_mean_exp((1 - alpha) * log_weight) / (1 - alpha)


def dreg(terms: Terms, beta: Tensor | float) -> Tensor:
    r"""The importance-weighted bound, doubly reparameterised.

    Its gradient in theta is the bound's own, and in phi

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
    terms: Terms, beta: Tensor | float, nats: float, kl: DimensionKL
) -> Tensor:
    r"""The ELBO with a floor under each dimension's KL.

    .. math:: \frac{1}{S} \sum_s \log p(x \mid z_s) - \beta \sum_{p=1}^P
        \max(\lambda, \frac{1}{B} \sum_b KL_{bp})

    Args:
        terms: The minibatch's.
        beta: The weight of the KL.
        nats: lambda, for each latent dimension.
        kl: The KL by dimension, `(..., B, P)`, of a latent.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow,
        D. P. Kingma et al., 2016.
    """
    floored = sum(
        kl(latent).flatten(0, -2).mean(0).clamp(min=nats).sum()
        for latent in terms.latents
    )
    return terms.log_likelihood.mean(0) - beta * floored


def sampled_dimension_kl(latent: Latent) -> Tensor:
    """Returns log q - log p by dimension, `(..., B, P)`."""
    q, p = _factors(latent)
    return q.log_prob(latent.z) - p.log_prob(latent.z)


def analytic_dimension_kl(latent: Latent) -> Tensor:
    """Returns the KL by dimension in closed form, `(..., B, P)`."""
    return compute_kl(*_factors(latent))


def _factors(latent: Latent) -> list[dist.Distribution]:
    """The distributions of the single dimensions, of the guide and prior."""
    for whose, whole in (("guide", latent.q), ("prior", latent.p)):
        is_factorised = (
            isinstance(whole, torch.distributions.Independent)
            and whole.reinterpreted_batch_ndims == 1
            and not whole.base_dist.event_shape
        )
        if not is_factorised:
            raise ValueError(
                f"--free-bits was given, but the {whose} is "
                f"{type(whole).__name__}; expected independent dimensions, "
                "for each its own KL: leave it out"
            )
    return [latent.q.base_dist, latent.p.base_dist]


def _log_mean_exp(values: Tensor) -> Tensor:
    return values.logsumexp(0) - math.log(len(values))


def _scale_gradient(z: Tensor, weight: Tensor) -> None:
    """Multiplies what flows back into z by weights `(S, B)`."""
    weight = weight.view(z.shape[:-1]).unsqueeze(-1)
    z.register_hook(lambda gradient: weight * gradient)
