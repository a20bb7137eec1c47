"""The same VAE and the same Adam in everybody's words, for benchmark.py.

A rival is made of a pair with given initial weights, and takes steps on
minibatches. NumPyro's stands in rivals_numpyro.py.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_vae import (
    MLP,
    VAE,
    BernoulliLikelihood,
    Config,
    GaussianLikelihood,
    NormalGuide,
    NormalPrior,
    build,
)
from pyro_vae.parts.guides import MIN_SCALE
from pyro_vae.svi import CompiledSVI, make_svi
from pyro_vae.svi.kernels import (
    KERNELS,
    list_kernels,
    prepare_operands,
    time_kernels,
)

LEARNING_RATE = 1e-3
LARGE = 1 << 20  # multiplications, from which a product belongs to the floor

Batches = Sequence[Tensor]


class NotInstalledError(ImportError):
    """What a rival rests on is not installed."""


@dataclass
class Rival:
    """One way to take steps.

    Attributes:
        steps: Takes a step on each of some minibatches, `(B, D)`.
        vae: The VAE that holds the fitted weights after `finish`; None if
            nothing is fitted.
        finish: Brings the fitted weights there.
    """

    steps: Callable[[Batches], None]
    vae: VAE | None
    finish: Callable[[], None] = lambda: None


MakeRival = Callable[[VAE, int], Rival]


def gaussian_pair() -> VAE:
    """Makes the assignment's VAE: 784-512-2, Gaussian pixels."""
    return build(Config())


def bernoulli_pair() -> VAE:
    """Makes a deeper one: 784-200-200-50 and back, tanh, Bernoulli pixels."""
    encoder = MLP(784, 100, (200, 200), "tanh")
    decoder = MLP(50, 784, (200, 200), "tanh")
    return VAE(
        NormalPrior(50), BernoulliLikelihood(decoder), NormalGuide(encoder)
    )


def pyro_svi(vae: VAE, batch_size: int, loss: ELBO | None = None) -> Rival:
    """Makes the official recipe, with Pyro's own settings."""
    svi = SVI(vae.model, vae.guide, _pyro_adam(), loss or Trace_ELBO())
    return Rival(lambda batches: _each(svi.step, batches), vae)


def pyro_jit(vae: VAE, batch_size: int) -> Rival:
    """Makes the same recipe with Pyro's estimator for the torch JIT."""
    return pyro_svi(vae, batch_size, JitTrace_ELBO(ignore_jit_warnings=True))


def pyro_module(vae: VAE, batch_size: int) -> Rival:
    """Makes a torch loop with Pyro's ELBO as a module and a fused Adam."""
    return _torch(vae, Trace_ELBO()(vae.model, vae.guide))


def torch_eager(vae: VAE, batch_size: int) -> Rival:
    """Makes a torch loop with the hand-written loss and a fused Adam."""
    return _torch(vae, HandWritten(vae))


def torch_compiled(vae: VAE, batch_size: int) -> Rival:
    """Makes the same loop, its loss compiled by `torch.compile`."""
    return _torch(vae, torch.compile(HandWritten(vae)))


def ours_eager(vae: VAE, batch_size: int) -> Rival:
    """Makes this package's eager step."""
    svi = make_svi(vae.model, vae.guide, _pyro_adam(), Trace_ELBO())

    def steps(batches: Batches) -> None:
        with pyro.validation_enabled(False):
            _each(svi.step, batches)

    return Rival(steps, vae)


def ours_compiled(precision: str) -> MakeRival:
    """Returns what makes this package's compiled step, of a precision."""

    def make(vae: VAE, batch_size: int) -> Rival:
        svi = CompiledSVI(
            vae.model, vae.guide, _pyro_adam(), precision=precision
        )
        return Rival(lambda batches: _each(svi.step, batches), vae)

    return make


def floor(precision: str) -> MakeRival:
    """Returns what makes a lower bound on the time of a step.

    It takes the pair's large matrix products, each by the fastest of torch's
    kernels for it on this machine, and one fused Adam, and fits nothing.
    """

    def make(vae: VAE, batch_size: int) -> Rival:
        products: list[Callable[[], Tensor]] = []
        for network in (vae.guide.encoder, _decoder(vae)):
            for index, layer in enumerate(_linears(network)):
                pairs = _products(layer, batch_size, first=index == 0)
                products += [_fastest(*pair, precision) for pair in pairs]
        params = list(vae.parameters())
        grads = [torch.randn_like(param) for param in params]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        adam = torch.optim.Adam(params, lr=0.0, fused=True)

        def steps(batches: Batches) -> None:
            with torch.no_grad():
                for _ in batches:
                    for multiply in products:
                        multiply()
                    adam.step()

        return Rival(steps, None)

    return make


def numpyro(vae: VAE, batch_size: int) -> Rival:
    """Makes NumPyro's SVI, its steps one jitted loop.

    Raises:
        NotInstalledError: If NumPyro or JAX is not installed.
    """
    try:
        from rivals_numpyro import NumPyroLoop
    except ImportError as error:
        raise NotInstalledError(
            f"the rival NumPyro needs {error.name}, which is not installed; "
            "expected the extra bench: pip install -e '.[bench]'"
        ) from None
    loop = NumPyroLoop(vae, batch_size, LEARNING_RATE)
    return Rival(loop.take_steps, vae, loop.finish)


class HandWritten(nn.Module):
    """The loss as one writes it without Pyro, by the estimator of Trace_ELBO.

    The KL is therefore sampled, too, and not in closed form.

    Args:
        vae: One of the two pairs.
    """

    def __init__(self, vae: VAE):
        super().__init__()
        self.encoder, self.decoder = vae.guide.encoder, _decoder(vae)
        self.likelihood = vae.likelihood

    def forward(self, x: Tensor) -> Tensor:
        """Returns minus the ELBO of a minibatch `(B, D)`, summed, in nats."""
        loc, unconstrained = self.encoder(x).chunk(2, dim=-1)
        scale = softplus(unconstrained) + MIN_SCALE
        epsilon = torch.randn_like(loc)
        z = loc + scale * epsilon
        # log p(z) - log q(z | x); the constants cancel.
        log_ratio = (0.5 * (epsilon.square() - z.square()) + scale.log()).sum()
        output = self.decoder(z)
        if not isinstance(self.likelihood, GaussianLikelihood):
            loss = binary_cross_entropy_with_logits(output, x, reduction="sum")
            return loss - log_ratio
        noise = self.likelihood.scale
        squares = ((x - output) / noise).square().sum()
        log_norm = x.numel() * (noise.log() + 0.5 * math.log(2 * math.pi))
        return 0.5 * squares + log_norm - log_ratio


RIVALS: dict[str, MakeRival] = {
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
    """Makes a rival with its own copy of the weights.

    Args:
        name: A key of `RIVALS`.
        vae: One of the two pairs.
        batch_size: The number of images in each minibatch.

    Raises:
        NotInstalledError: If the rival rests on what is not installed.
    """
    return RIVALS[name](copy.deepcopy(vae), batch_size)


def _decoder(vae: VAE) -> nn.Module:
    return vae.likelihood.get_submodule("decoder")


def _pyro_adam() -> Any:
    return pyro.optim.Adam({"lr": LEARNING_RATE})  # type: ignore[attr-defined]


def _each(step: Callable[[Tensor], Any], batches: Batches) -> None:
    for x in batches:
        step(x)


def _torch(vae: VAE, loss: Callable[[Tensor], Tensor]) -> Rival:
    """Makes a plain torch loop."""
    adam = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)

    def step(x: Tensor) -> None:
        adam.zero_grad()
        loss(x).backward()
        adam.step()

    return Rival(lambda batches: _each(step, batches), vae)


def _linears(network: nn.Module) -> list[nn.Linear]:
    return [m for m in network.modules() if isinstance(m, nn.Linear)]


def _products(
    layer: nn.Linear, batch_size: int, first: bool
) -> list[tuple[Tensor, Tensor]]:
    """Returns the operands of a layer's large products, forward and back."""
    fan_out, fan_in = layer.weight.shape
    if batch_size * fan_in * fan_out < LARGE:
        return []
    weight = layer.weight.detach()
    x, y = torch.randn(batch_size, fan_in), torch.randn(batch_size, fan_out)
    products = [(x, weight.t()), (y.t(), x)]
    if not first:
        products.append((y, weight))
    return products


def _fastest(
    left: Tensor, right: Tensor, precision: str
) -> Callable[[], Tensor]:
    """Returns what multiplies two matrices by torch's fastest kernel."""
    is_single = left.dtype == torch.float32
    kernels = list_kernels(precision) if is_single else ["torch"]
    times = time_kernels(left, right, kernels)
    kernel = min(times, key=lambda name: times[name])
    operands = prepare_operands(left, right, kernel)
    if kernel == "onednn":
        return lambda: KERNELS[kernel](*operands)
    out = torch.empty(len(left), right.shape[1], dtype=operands[0].dtype)
    return lambda: torch.mm(*operands, out=out)
