"""The same VAE and the same Adam in everybody's words, for benchmark.py.

A rival is made from a pair's initial weights and gives a function that takes a
step on each of a list of minibatches, and one that gives its parameters back.
"""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae import MLP, VAE, Config, NormalGuide, NormalPrior, build
from pyro_vae.parts.guides import MIN_SCALE
from pyro_vae.svi import CompiledSVI, make_svi

LEARNING_RATE = 1e-3
LARGE = 1 << 20  # multiplications, from which a product belongs to the floor

Steps = Callable[[Sequence[Tensor]], None]


class BernoulliLikelihood(nn.Module):
    """p(x | z) of independent pixels, for the second pair."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self.decoder(z)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)


def gaussian_pair() -> VAE:
    """784-512-2, the assignment's."""
    return build(Config())


def bernoulli_pair() -> VAE:
    """784-200-200-50 and back, tanh."""
    encoder = MLP(784, 100, (200, 200), "tanh")
    decoder = MLP(50, 784, (200, 200), "tanh")
    return VAE(
        NormalPrior(50), BernoulliLikelihood(decoder), NormalGuide(encoder)
    )


@dataclass
class Rival:
    """One way to take steps.

    Attributes:
        steps: Takes a step on each minibatch.
        vae: Where the fitted weights are, after `finish`.
        finish: Brings them there.
    """

    steps: Steps
    vae: VAE | None
    finish: Callable[[], None] = lambda: None


def pyro_svi(vae: VAE, batch_size: int, loss=None) -> Rival:
    """The official recipe, with Pyro's own settings."""
    optim = pyro.optim.Adam({"lr": LEARNING_RATE})
    svi = SVI(vae.model, vae.guide, optim, loss or Trace_ELBO())
    return Rival(lambda batches: _each(svi.step, batches), vae)


def pyro_jit(vae: VAE, batch_size: int) -> Rival:
    return pyro_svi(vae, batch_size, JitTrace_ELBO(ignore_jit_warnings=True))


def pyro_module(vae: VAE, batch_size: int) -> Rival:
    """Pyro's ELBO as a module, and one fused optimiser."""
    return _torch(vae, Trace_ELBO()(vae.model, vae.guide))


def torch_eager(vae: VAE, batch_size: int) -> Rival:
    return _torch(vae, HandWritten(vae))


def torch_compiled(vae: VAE, batch_size: int) -> Rival:
    return _torch(vae, torch.compile(HandWritten(vae)))


def ours_eager(vae: VAE, batch_size: int) -> Rival:
    optim = pyro.optim.Adam({"lr": LEARNING_RATE})
    svi = make_svi(vae.model, vae.guide, optim, Trace_ELBO())

    def steps(batches):
        with pyro.validation_enabled(False):
            _each(svi.step, batches)

    return Rival(steps, vae)


def ours_compiled(precision: str) -> Callable[[VAE, int], Rival]:
    def make(vae: VAE, batch_size: int) -> Rival:
        optim = pyro.optim.Adam({"lr": LEARNING_RATE})
        svi = CompiledSVI(vae.model, vae.guide, optim, precision=precision)
        return Rival(lambda batches: _each(svi.step, batches), vae)

    return make


def floor(precision: str) -> Callable[[VAE, int], Rival]:
    """The pair's large matrix products and one fused Adam; nothing is fitted.

    The products are torch's, at torch's setting of that precision.
    """

    def make(vae: VAE, batch_size: int) -> Rival:
        products = []
        for network in (
            vae.guide.distribution.encoder,
            vae.likelihood.decoder,
        ):
            for index, layer in enumerate(_linears(network)):
                products += _products(layer, batch_size, first=index == 0)
        params = list(vae.parameters())
        grads = [torch.randn_like(param) for param in params]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        adam = torch.optim.Adam(params, lr=0.0, fused=True)

        def steps(batches):
            with torch.no_grad(), matmul_precision(precision):
                for _ in batches:
                    for left, right, out in products:
                        torch.mm(left, right, out=out)
                    adam.step()

        return Rival(steps, None)

    return make


def numpyro(vae: VAE, batch_size: int) -> Rival:
    """NumPyro's SVI, its steps one jitted loop."""
    import jax
    from jax import numpy as jnp
    from numpyro.infer import SVI as NumPyroSVI
    from numpyro.infer import Trace_ELBO as NumPyroELBO
    from numpyro.optim import Adam

    model, guide, initial = _numpyro_pair(vae)
    svi = NumPyroSVI(model, guide, Adam(LEARNING_RATE), NumPyroELBO())
    blank = jnp.zeros((batch_size, 784), jnp.float32)
    state = svi.init(jax.random.PRNGKey(0), blank, initial)

    @jax.jit
    def loop(state, batches):
        return jax.lax.scan(
            lambda state, x: svi.update(state, x, initial), state, batches
        )

    def steps(batches):
        nonlocal state
        state, losses = loop(state, jnp.asarray(torch.stack(list(batches))))
        losses.block_until_ready()

    def finish():
        fitted = svi.get_params(state)
        with torch.no_grad():
            for name, param in vae.named_parameters():
                param.copy_(torch.tensor(jax.device_get(fitted[name]).copy()))

    return Rival(steps, vae, finish)


class HandWritten(nn.Module):
    """The loss as one writes it without Pyro, KL in closed form left out:

    the same estimator as Trace_ELBO's.
    """

    def __init__(self, vae: VAE):
        super().__init__()
        self.encoder = vae.guide.distribution.encoder
        self.likelihood = vae.likelihood
        self.is_gaussian = hasattr(vae.likelihood, "scale")

    def forward(self, x: Tensor) -> Tensor:
        loc, unconstrained = self.encoder(x).chunk(2, dim=-1)
        scale = softplus(unconstrained) + MIN_SCALE
        epsilon = torch.randn_like(loc)
        z = loc + scale * epsilon
        # log p(z) - log q(z | x); the constants cancel.
        log_ratio = (0.5 * (epsilon.square() - z.square()) + scale.log()).sum()
        output = self.likelihood.decoder(z)
        if not self.is_gaussian:
            loss = nn.functional.binary_cross_entropy_with_logits(
                output, x, reduction="sum"
            )
            return loss - log_ratio
        noise = self.likelihood.scale
        squares = ((x - output) / noise).square().sum()
        log_norm = x.numel() * (noise.log() + 0.5 * math.log(2 * math.pi))
        return 0.5 * squares + log_norm - log_ratio


@contextmanager
def matmul_precision(precision: str):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


RIVALS: dict[str, Callable[[VAE, int], Rival]] = {
    "Pyro SVI, Trace_ELBO": pyro_svi,
    "Pyro SVI, JitTrace_ELBO": pyro_jit,
    "Pyro ELBO module, fused Adam": pyro_module,
    "torch by hand, eager": torch_eager,
    "torch by hand, torch.compile": torch_compiled,
    "NumPyro, jitted loop": numpyro,
    "pyro_vae, eager": ours_eager,
    "pyro_vae, compiled, highest": ours_compiled("highest"),
    "pyro_vae, compiled, high": ours_compiled("high"),
    "pyro_vae, compiled, medium": ours_compiled("medium"),
    "floor, highest": floor("highest"),
    "floor, medium": floor("medium"),
}


def make_rival(name: str, vae: VAE, batch_size: int) -> Rival:
    """Makes a rival with its own copy of the weights."""
    return RIVALS[name](copy.deepcopy(vae), batch_size)


def _each(step: Callable[[Tensor], float], batches: Sequence[Tensor]) -> None:
    for x in batches:
        step(x)


def _torch(vae: VAE, loss: nn.Module) -> Rival:
    adam = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)

    def step(x):
        adam.zero_grad()
        loss(x).backward()
        adam.step()

    return Rival(lambda batches: _each(step, batches), vae)


def _linears(network: nn.Module) -> list[nn.Linear]:
    return [m for m in network.modules() if isinstance(m, nn.Linear)]


def _products(layer: nn.Linear, batch_size: int, first: bool) -> list:
    """A layer's large products, forwards and backwards."""
    fan_out, fan_in = layer.weight.shape
    if batch_size * fan_in * fan_out < LARGE:
        return []
    weight = layer.weight.detach()
    x, y = torch.randn(batch_size, fan_in), torch.randn(batch_size, fan_out)
    products = [
        (x, weight.t(), torch.empty_like(y)),
        (y.t(), x, torch.empty_like(weight)),
    ]
    if not first:
        products.append((y, weight, torch.empty_like(x)))
    return products


def _numpyro_pair(vae: VAE):
    """The pair in NumPyro, its parameters under the VAE's names."""
    import jax
    import numpyro
    import numpyro.distributions as npd
    from jax import numpy as jnp

    encoder, decoder = "guide.distribution.encoder", "model.likelihood.decoder"
    initial = {
        name: jnp.asarray(param.detach().numpy().copy())
        for name, param in vae.named_parameters()
    }
    gaussian = hasattr(vae.likelihood, "scale")
    hidden = jax.nn.relu if gaussian else jnp.tanh

    def network(prefix, inputs, initial):
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

    def model(x, initial):
        latent_dim = initial[f"{decoder}.layers.0.weight"].shape[1]
        with numpyro.plate("data", x.shape[0]):
            prior = npd.Normal(jnp.zeros(latent_dim), 1.0).to_event(1)
            output = network(decoder, numpyro.sample("z", prior), initial)
            if gaussian:
                name = "model.likelihood.log_scale"
                log_scale = numpyro.param(name, initial[name])
                scale = vae.likelihood.min_scale + jnp.exp(log_scale)
                p = npd.Normal(jax.nn.sigmoid(output), scale)
            else:
                p = npd.Bernoulli(logits=output, validate_args=False)
            numpyro.sample("x", p.to_event(1), obs=x)

    def guide(x, initial):
        with numpyro.plate("data", x.shape[0]):
            features = network(encoder, x, initial)
            loc, unconstrained = jnp.split(features, 2, axis=-1)
            scale = jax.nn.softplus(unconstrained) + MIN_SCALE
            numpyro.sample("z", npd.Normal(loc, scale).to_event(1))

    return model, guide, initial
