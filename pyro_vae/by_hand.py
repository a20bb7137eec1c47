r"""The assignment's formulas, written out by hand on plain tensors.

Nothing here uses Pyro, autograd or the rest of the package: these are the
answers that Pyro's values and gradients are checked against.
`docs/derivations.md` derives each one.

The model is the assignment's: a standard normal prior, and a decoder and an
encoder of one hidden ReLU layer each,

.. math::
    x \mid z \sim N(f(z, w), s^2 I), \quad
    q(z \mid x) = N(\mu, \operatorname{diag}\sigma^2), \quad
    (\mu, \upsilon) = g(x, \phi), \quad
    \sigma = \sigma_{\min} + \operatorname{softplus}(\upsilon).

Shapes: S particles, B images, D pixels, P latent dimensions, H hidden units.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Layers(NamedTuple):
    """The parameters of a hidden layer and a linear output layer.

    A gradient in these parameters has the same form.

    Attributes:
        weight1: The hidden layer's weights, `(H, in)`.
        bias1: The hidden layer's biases, `(H,)`.
        weight2: The output layer's weights, `(out, H)`.
        bias2: The output layer's biases, `(out,)`.
    """

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor


def minibatch_elbo(log_weight: Tensor, num_data: int) -> Tensor:
    r"""Returns Problem 1a's unbiased minibatch estimate of the whole ELBO.

    .. math:: \hat L = \frac{N}{B} \sum_{n \in \text{batch}}
        \frac{1}{S} \sum_j \log p(x_n, z_{nj}) - \log q(z_{nj} \mid x_n)

    Args:
        log_weight: The summand, `(S, B)`, in nats, as the function
            `log_weight` computes it.
        num_data: N, the number of images in the data set.

    Returns:
        The estimate, `()`, in nats, of the sum over the whole data set.
    """
    return num_data * log_weight.mean()


def log_weight(
    x: Tensor,
    epsilon: Tensor,
    encoder: Layers,
    decoder: Layers,
    noise_scale: Tensor,
    min_scale: float = 0.0,
) -> Tensor:
    r"""Returns the log-weights at given noise.

    .. math:: \log p(x, z) - \log q(z \mid x), \quad z = \mu + \sigma \epsilon

    Args:
        x: Images, `(B, D)`.
        epsilon: Standard normal noise, `(S, B, P)`.
        encoder: phi, the encoder's layers, from D to 2 P.
        decoder: w, the decoder's layers, from P to D. Their output goes
            through a sigmoid.
        noise_scale: s, the standard deviation of the pixels' noise, `()`.
        min_scale: The floor under the scale of q, in units of z.

    Returns:
        The log-weights, `(S, B)`, in nats.
    """
    loc, unconstrained = _forward(encoder, x)[1].chunk(2, dim=-1)
    scale = min_scale + _softplus(unconstrained)
    z = loc + scale * epsilon
    mean = _sigmoid(_forward(decoder, z)[1])
    return (
        gaussian_log_density(x, mean, noise_scale)
        + gaussian_log_density(z, torch.zeros_like(z), torch.ones_like(z))
        - gaussian_log_density(z, loc, scale)
    )


def theta_gradient(
    x: Tensor, z: Tensor, decoder: Layers, noise_scale: Tensor, num_data: int
) -> tuple[Layers, Tensor]:
    r"""Returns Problem 1b's gradient of the minibatch ELBO in Theta = (w, s).

    .. math::
        \nabla_w \hat L = \frac{N}{B S} \sum_{n, j} J_w f(z_{nj}, w)^T
            \frac{x_n - f(z_{nj}, w)}{s^2}, \quad
        \partial_s \hat L = \frac{N}{B S} \sum_{n, j}
            \frac{\|x_n - f(z_{nj}, w)\|^2}{s^3} - \frac{D}{s}

    Args:
        x: Images, `(B, D)`.
        z: Latents drawn from q, `(S, B, P)`.
        decoder: w, the decoder's layers, from P to D. Their output goes
            through a sigmoid.
        noise_scale: s, the standard deviation of the pixels' noise, `()`.
        num_data: N, the number of images in the data set.

    Returns:
        The gradient in w, and the gradient in s, `()`.
    """
    weight = num_data / z[..., 0].numel()
    hidden, logits = _forward(decoder, z)
    mean = _sigmoid(logits)
    residual = x - mean
    in_logits = residual / noise_scale**2 * mean * (1 - mean)
    in_decoder, _ = _backward(decoder, z, hidden, weight * in_logits)
    squares = residual.square().sum(-1)
    in_scale = squares / noise_scale**3 - x.shape[-1] / noise_scale
    return in_decoder, weight * in_scale.sum()


def phi_gradient(
    x: Tensor,
    epsilon: Tensor,
    encoder: Layers,
    decoder: Layers,
    noise_scale: Tensor,
    num_data: int,
    min_scale: float = 0.0,
) -> Layers:
    r"""Returns Problem 1d's reparameterized gradient in phi.

    With :math:`z = \mu + \sigma \epsilon` at given noise, log q depends on phi
    through :math:`-\log \sigma` alone, so that

    .. math::
        \nabla_\mu = J_z f(z, w)^T \frac{x - f(z, w)}{s^2} - z, \quad
        \nabla_\sigma = \epsilon \nabla_\mu + \frac{1}{\sigma},

    and the chain rule carries both through the encoder. The arguments are those
    of `log_weight`, and `num_data`, the number N of images in the data set.

    Returns:
        The gradient of the minibatch ELBO in phi.
    """
    encoder_hidden, parameters = _forward(encoder, x)
    loc, unconstrained = parameters.chunk(2, dim=-1)
    scale = min_scale + _softplus(unconstrained)
    z = loc + scale * epsilon
    hidden, logits = _forward(decoder, z)
    mean = _sigmoid(logits)
    in_logits = (x - mean) / noise_scale**2 * mean * (1 - mean)
    _, in_z = _backward(decoder, z, hidden, in_logits)
    in_loc = in_z - z
    in_scale = epsilon * in_loc + 1 / scale
    in_unconstrained = in_scale * _sigmoid(unconstrained)
    in_parameters = torch.cat([in_loc, in_unconstrained], dim=-1).mean(0)
    weight = num_data / len(x)
    return _backward(encoder, x, encoder_hidden, weight * in_parameters)[0]


def gaussian_log_density(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r"""Returns the log-density of a normal with a diagonal covariance.

    .. math:: -\frac12 \sum_d \frac{(x_d - \mu_d)^2}{\sigma_d^2}
        + \log 2 \pi \sigma_d^2

    Args:
        x: The points, `(..., D)`.
        loc: The means, which broadcast with x.
        scale: The standard deviations, which broadcast with x.

    Returns:
        The log-densities, `(...)`, in nats.
    """
    squares = ((x - loc) / scale).square()
    return -0.5 * (squares + 2 * scale.log() + math.log(2 * math.pi)).sum(-1)


def gaussian_kl(
    loc1: Tensor, cov1: Tensor, loc2: Tensor, cov2: Tensor
) -> Tensor:
    r"""Returns Problem 1c's KL(N(loc1, cov1), N(loc2, cov2)).

    .. math:: \frac12 \left( \operatorname{tr}(\Sigma_2^{-1} \Sigma_1)
        + (\mu_2 - \mu_1)^T \Sigma_2^{-1} (\mu_2 - \mu_1) - P
        + \log \frac{|\Sigma_2|}{|\Sigma_1|} \right)

    It is computed from the Cholesky factors :math:`\Sigma_i = L_i L_i^T`: the
    trace is :math:`\|L_2^{-1} L_1\|_F^2`.

    Args:
        loc1: The mean of the first normal, `(..., P)`.
        cov1: Its covariance, symmetric and positive definite, `(..., P, P)`.
        loc2: The mean of the second normal, `(..., P)`.
        cov2: Its covariance, symmetric and positive definite, `(..., P, P)`.

    Returns:
        The KL, `(...)`, in nats.

    Raises:
        ValueError: If a covariance is not positive definite.
    """
    chol1, chol2 = _cholesky(cov1, "cov1"), _cholesky(cov2, "cov2")
    difference = (loc2 - loc1).unsqueeze(-1)
    whitened = torch.linalg.solve_triangular(chol2, chol1, upper=False)
    shift = torch.linalg.solve_triangular(chol2, difference, upper=False)
    log_det1, log_det2 = (
        2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        for chol in (chol1, chol2)
    )
    trace = whitened.square().sum((-2, -1))
    distance = shift.square().sum((-2, -1))
    return 0.5 * (trace + distance - loc1.shape[-1] + log_det2 - log_det1)


def diagonal_gaussian_kl(
    loc1: Tensor, scale1: Tensor, loc2: Tensor, scale2: Tensor
) -> Tensor:
    r"""Returns Problem 1c's KL for diagonal covariances.

    It is a sum of one-dimensional KLs:

    .. math:: \sum_p \log \frac{\sigma_{2p}}{\sigma_{1p}}
        + \frac{\sigma_{1p}^2 + (\mu_{1p} - \mu_{2p})^2}{2 \sigma_{2p}^2}
        - \frac12

    Args:
        loc1: The mean of the first normal, `(..., P)`.
        scale1: Its standard deviations, `(..., P)`.
        loc2: The mean of the second normal, `(..., P)`.
        scale2: Its standard deviations, `(..., P)`.

    Returns:
        The KL, `(...)`, in nats.
    """
    ratio = scale1 / scale2
    shift = (loc1 - loc2) / scale2
    terms = 0.5 * (ratio.square() + shift.square() - 1) - ratio.log()
    return terms.sum(-1)


def laplace_reparameterize(epsilon: Tensor, scale: Tensor | float) -> Tensor:
    r"""Returns Problem 4a's Laplace noise, as a function of uniform noise.

    .. math:: z = -b \operatorname{sign}(\epsilon) \log(1 - 2 |\epsilon|),
        \quad \epsilon \sim \operatorname{Uniform}(-\tfrac12, \tfrac12)

    It is the inverse of the Laplace(0, b) distribution function at
    epsilon + 1/2.

    Args:
        epsilon: The uniform noise, of any shape, inside the open interval
            (-1/2, 1/2).
        scale: b, positive, which broadcasts with epsilon.

    Returns:
        z, distributed as Laplace(0, b), of the shape of epsilon and b together.

    Raises:
        ValueError: If an epsilon lies outside the interval.
    """
    if not (epsilon.abs() < 0.5).all():
        raise ValueError(
            f"epsilon ranges from {epsilon.min():g} to {epsilon.max():g}; "
            "expected it inside (-1/2, 1/2)"
        )
    return -scale * epsilon.sign() * torch.log1p(-2 * epsilon.abs())


def _forward(layers: Layers, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the hidden units and the linear output."""
    hidden = (inputs @ layers.weight1.T + layers.bias1).clamp(min=0)
    return hidden, hidden @ layers.weight2.T + layers.bias2


def _backward(
    layers: Layers, inputs: Tensor, hidden: Tensor, in_output: Tensor
) -> tuple[Layers, Tensor]:
    """Carries a gradient in the output back to the layers and the inputs."""
    in_hidden = in_output @ layers.weight2 * (hidden > 0)
    in_layers = Layers(
        _outer(in_hidden, inputs),
        in_hidden.flatten(0, -2).sum(0),
        _outer(in_output, hidden),
        in_output.flatten(0, -2).sum(0),
    )
    return in_layers, in_hidden @ layers.weight1


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Returns the sum of the outer products over all leading dimensions."""
    return left.flatten(0, -2).T @ right.flatten(0, -2)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _cholesky(covariance: Tensor, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info.any():
        raise ValueError(
            f"{name} is not positive definite; expected a covariance matrix"
        )
    return factor
