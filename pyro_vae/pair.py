"""The Pyro pair: a model and a guide that announce their parameters."""

import itertools
import weakref
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import NormalMixture

_count = itertools.count()
_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def announce(module: nn.Module) -> None:
    """Announces a module's trainable parameters to Pyro as `param` sites.

    Pyro's names are global: two modules announced under one name would share
    the first one's parameters, so each module gets a name of its own, and a
    parameter that was put in another's place replaces it in the param store.
    """
    store = pyro.get_param_store()
    stored = dict(store.named_parameters())
    for name, parameter in param_names(module).items():
        if stored.get(name, parameter) is not parameter:
            del store[name]
        pyro.param(name, parameter)


def param_names(module: nn.Module) -> dict[str, nn.Parameter]:
    """Returns a module's trainable parameters by their names in Pyro."""
    if module not in _names:
        name = f"{type(module).__name__.lower()}{next(_count)}"
        _names[module] = name
        weakref.finalize(module, _forget, f"{name}.").atexit = False
    return {
        f"{_names[module]}.{name}": parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _forget(prefix: str) -> None:
    """Lets go of a dead module's parameters."""
    store = pyro.get_param_store()
    for name in [name for name in store if name.startswith(prefix)]:
        del store[name]


class Model(nn.Module):
    r"""The generative model as a Pyro callable: sample sites `z` and `x`.

    .. math:: z \sim p(z), \quad x \mid z \sim p(x \mid z)

    Args:
        prior: `prior()` is p(z).
        likelihood: `likelihood(z)` is p(x | z).
    """

    def __init__(self, prior: nn.Module, likelihood: nn.Module):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood

    def forward(
        self,
        x: Tensor,
        num_data: int | None = None,
        features: Tensor | None = None,
        ascent: Tensor | None = None,
    ) -> Tensor:
        """Declares p(x, z) for a minibatch and returns z.

        Args:
            x: Images, `(B, D)`.
            num_data: The size N of the data set, if the log-density is to be
                that of the whole data set, estimated from the minibatch:
                scaled by N / B.
            features, ascent: The guide's; not used.

        Returns:
            z, `(..., B, P)`.

        Raises:
            ValueError: If `x` is not of two dimensions, or N < B.
        """
        announce(self)
        with _data_plate(x, num_data):
            z = _sample_latents(self.prior(), {})
            pyro.sample("x", self.likelihood(z), obs=x)
        return z


class Guide(nn.Module):
    r"""The amortised guide as a Pyro callable: sample site `z`.

    .. math:: z \sim q(z \mid x)

    Args:
        distribution: `distribution(x)` is q(z | x).
        gradient: How its parameters get their gradient, of `gradients`. It
            marks the site for Pyro; nobody has to remember enumeration.
    """

    def __init__(self, distribution: nn.Module, gradient: nn.Module):
        super().__init__()
        self.distribution = distribution
        self.gradient = gradient

    def forward(
        self,
        x: Tensor,
        num_data: int | None = None,
        features: Tensor | None = None,
        ascent: Tensor | None = None,
    ) -> Tensor:
        """Declares q(z | x) for a minibatch.

        Args:
            x: Images, `(B, D)`.
            num_data: N, as in `Model`.
            features: The images' own parameters of the family, `(B, F)`, in
                the place of what the encoder makes of them.
            ascent: With them, the gradient of the ELBO where the encoder
                stands, `(B, F)`, which the encoder is to follow. Else it is
                not trained.

        Returns:
            z, `(..., B, P)`.
        """
        if features is None or ascent is not None:
            announce(self)
        with _data_plate(x, num_data):
            weight = (num_data or len(x)) / len(x)
            if features is None:
                q = self.distribution(x)
            else:
                q = self.distribution.family(features)
            if ascent is not None:
                follow = (self.distribution.encoder(x) * ascent).sum(-1)
                # Of value zero: it adds its gradient to that of the ELBO.
                zero = follow.detach() - follow
                pyro.factor("encoder", zero, has_rsample=True)
            return _sample_latents(*self.gradient(q, x, weight))


def _sample_latents(
    distribution: dist.Distribution, infer: dict[str, Any]
) -> Tensor:
    """Declares the site `z`, after its component, `y`, if it has one."""
    if isinstance(distribution, NormalMixture):
        y = pyro.sample("y", distribution.mixture_distribution, infer=infer)
        return pyro.sample("z", distribution.given(y))
    return pyro.sample("z", distribution, infer=infer)


def _data_plate(x: Tensor, num_data: int | None) -> pyro.plate:
    """The plate of the images, the rightmost dimension of every site."""
    size = len(check_images(x))
    if num_data is not None and num_data < size:
        raise ValueError(
            f"num_data is {num_data}; expected the size of the data set, at "
            f"least that of the minibatch, {size}"
        )
    indices = torch.arange(size, device=x.device)
    return pyro.plate("data", num_data or size, subsample=indices)


def check_images(x: Tensor) -> Tensor:
    """Returns images as they are.

    Raises:
        ValueError: If they are not a batch of flattened ones, `(B, D)`.
    """
    if x.dim() != 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected a batch of flattened "
            "images, (B, D): use x.flatten(1)"
        )
    return x
