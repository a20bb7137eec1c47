"""The benchmark's VAE in NumPyro, its steps one jitted loop."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpyro
import numpyro.distributions as dist
import torch
from jax import numpy as jnp
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import Adam
from torch import Tensor

from pyro_vae import VAE, GaussianLikelihood
from pyro_vae.parts.guides import MIN_SCALE

ENCODER, DECODER = "guide.distribution.encoder", "model.likelihood.decoder"
NOISE = "model.likelihood.log_scale"

Arrays = dict[str, Any]


class NumPyroLoop:
    """NumPyro's SVI on a VAE's pair, from the VAE's weights on.

    Args:
        vae: The VAE; `finish` brings the fitted weights back into it.
        batch_size: The number of images in each minibatch.
        learning_rate: The step size of Adam.
    """

    def __init__(self, vae: VAE, batch_size: int, learning_rate: float):
        self.vae = vae
        model, guide, initial = make_pair(vae)
        self.svi = SVI(model, guide, Adam(learning_rate), Trace_ELBO())
        blank = jnp.zeros((batch_size, 784), jnp.float32)
        self.state = self.svi.init(jax.random.PRNGKey(0), blank, initial)
        self._loop = jax.jit(
            lambda state, batches: jax.lax.scan(
                lambda state, x: self.svi.update(state, x, initial),
                state,
                batches,
            )
        )

    def take_steps(self, batches: Sequence[Tensor]) -> None:
        """Takes a step on each minibatch, `(B, 784)`."""
        stacked = jnp.asarray(torch.stack(list(batches)))
        self.state, losses = self._loop(self.state, stacked)
        losses.block_until_ready()

    @torch.no_grad()
    def finish(self) -> None:
        """Copies the fitted weights into the VAE."""
        fitted = self.svi.get_params(self.state)
        for name, param in self.vae.named_parameters():
            param.copy_(torch.tensor(jax.device_get(fitted[name]).copy()))


def make_pair(vae: VAE) -> tuple[Callable, Callable, Arrays]:
    """Returns model, guide and initial parameters, under the VAE's names."""
    initial = {
        name: jnp.asarray(param.detach().numpy().copy())
        for name, param in vae.named_parameters()
    }
    likelihood = vae.likelihood
    is_gaussian = isinstance(likelihood, GaussianLikelihood)
    hidden = jax.nn.relu if is_gaussian else jnp.tanh

    def model(x: Any, initial: Arrays) -> None:
        latent_dim = initial[f"{DECODER}.layers.0.weight"].shape[1]
        with numpyro.plate("data", x.shape[0]):
            prior = dist.Normal(jnp.zeros(latent_dim), 1.0).to_event(1)
            z = numpyro.sample("z", prior)
            output = apply(DECODER, z, initial, hidden)
            if isinstance(likelihood, GaussianLikelihood):
                log_scale = numpyro.param(NOISE, initial[NOISE])
                scale = likelihood.min_scale + jnp.exp(log_scale)
                p = dist.Normal(jax.nn.sigmoid(output), scale)
            else:
                p = dist.Bernoulli(logits=output, validate_args=False)
            numpyro.sample("x", p.to_event(1), obs=x)

    def guide(x: Any, initial: Arrays) -> None:
        with numpyro.plate("data", x.shape[0]):
            parameters = apply(ENCODER, x, initial, hidden)
            loc, unconstrained = jnp.split(parameters, 2, axis=-1)
            scale = jax.nn.softplus(unconstrained) + MIN_SCALE
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return model, guide, initial


def apply(prefix: str, inputs: Any, initial: Arrays, hidden: Callable) -> Any:
    """Applies one of the two networks, and declares its parameters.

    Args:
        prefix: The name of the network.
        inputs: Its inputs, `(B, ...)`.
        initial: The initial parameters of the pair.
        hidden: The activation of the hidden layers.
    """
    layers = sorted(
        {name.rsplit(".", 1)[0] for name in initial if prefix in name}
    )
    for layer in layers:
        weight, bias = (
            numpyro.param(f"{layer}.{part}", initial[f"{layer}.{part}"])
            for part in ("weight", "bias")
        )
        inputs = inputs @ weight.T + bias
        inputs = inputs if layer == layers[-1] else hidden(inputs)
    return inputs
