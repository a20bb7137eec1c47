"""The Pyro pair: a model and a guide that announce their parameters."""

import itertools
import weakref
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.checks import call_part, check_latent_dim
from pyro_vae.parts.contracts import AmortizedGuide, check_distribution
from pyro_vae.parts.distributions import declare_latents, declare_site
from pyro_vae.parts.gradient_estimators import GradientEstimator

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
    """Removes a dead module's parameters from the param store."""
    store = pyro.get_param_store()
    for name in [name for name in store if name.startswith(prefix)]:
        del store[name]


def state_without_marks(module: nn.Module) -> dict[str, Any]:
    """Returns a module's state, to be pickled.

    `pyro.param` leaves a weak reference on each parameter, which cannot be
    pickled, and puts it there anew whenever the parameter is announced.
    """
    for parameter in module.parameters():
        parameter.__dict__.pop("unconstrained", None)
    return module.__dict__.copy()


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

    def __getstate__(self) -> dict[str, Any]:
        return state_without_marks(self)

    def forward(
        self,
        x: Tensor,
        num_data: float | None = None,
        parameters: Tensor | None = None,
        encoder_gradient: Tensor | None = None,
    ) -> Tensor:
        """Declares p(x, z) for a minibatch and returns z.

        Args:
            x: Images, `(B, D)`.
            num_data: The size N of the data set, if the log-density is to be
                that of the whole data set, estimated from the minibatch:
                scaled by N / B. For b of the B images, it is their share of
                the data set, N b / B.
            parameters: For the guide; the model does not use it.
            encoder_gradient: For the guide; the model does not use it.

        Returns:
            z, `(..., B, P)`.

        Raises:
            ValueError: If `x` is not of two dimensions, or N < B, or z is not
                of the prior's size, or the likelihood not a distribution of x.
        """
        announce(self)
        with _data_plate(x, num_data):
            p = self.prior()
            z = declare_latents(p, {})
            check_latent_dim(z.shape[-1], p)
            declare_site("x", self.decode(z, x.shape[-1]), obs=x)
        return z

    def decode(self, z: Tensor, data_dim: int | None = None) -> Distribution:
        """Returns p(x | z) for latents `(..., P)`: batch `(...)`, event `(D,)`.

        Args:
            z: Latents, `(..., P)`.
            data_dim: D, if it is known.

        Raises:
            ValueError: If the likelihood returns anything else.
        """
        return check_distribution(
            call_part(self.likelihood, "likelihood", z),
            f"likelihood {type(self.likelihood).__name__}",
            "p(x | z)",
            z.shape[:-1],
            data_dim,
        )


class Guide(nn.Module):
    r"""The amortized guide as a Pyro callable: sample site `z`.

    .. math:: z \sim q(z \mid x)

    Args:
        distribution: `distribution(x)` is q(z | x); an `AmortizedGuide`, or a
            plain module.
        gradient: How its parameters get their gradient. It marks the site for
            Pyro, so that nobody has to remember enumeration.
    """

    def __init__(self, distribution: nn.Module, gradient: GradientEstimator):
        super().__init__()
        self.distribution = distribution
        self.gradient = gradient

    def __getstate__(self) -> dict[str, Any]:
        return state_without_marks(self)

    @property
    def encoder(self) -> nn.Module:
        """The network g(x, phi), `(B, D)` to `(B, F)`.

        Raises:
            ValueError: If the guide is no `AmortizedGuide`.
        """
        return self._amortized().encoder

    @property
    def num_parameters(self) -> int:
        """F, the number of unconstrained parameters for each image.

        Raises:
            ValueError: If the guide is no `AmortizedGuide`, or its encoder
                does not tell its `out_features`.
        """
        return self._amortized().num_parameters

    def encode(self, x: Tensor) -> Tensor:
        """Returns the unconstrained parameters lambda of images `(B, D)`.

        Returns:
            `(B, F)`.

        Raises:
            ValueError: If the guide is no `AmortizedGuide`.
        """
        return call_part(self._amortized().encoder, "encoder", x)

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the member of the guide's family with parameters `(..., F)`.

        Raises:
            ValueError: If the guide is no `AmortizedGuide`.
        """
        return self._amortized().family(parameters)

    def infer(self, x: Tensor) -> Distribution:
        """Returns q(z | x) by the encoder: batch `(B,)`, event `(P,)`.

        Raises:
            ValueError: If the module returns anything else.
        """
        return check_distribution(
            call_part(self.distribution, "guide", x),
            f"guide {type(self.distribution).__name__}",
            "q(z | x)",
            x.shape[:1],
        )

    def forward(
        self,
        x: Tensor,
        num_data: float | None = None,
        parameters: Tensor | None = None,
        encoder_gradient: Tensor | None = None,
    ) -> Tensor:
        """Declares q(z | x) for a minibatch and returns z.

        Args:
            x: Images, `(B, D)`.
            num_data: The size N of the data set, as in `Model`.
            parameters: The images' own parameters of the family, `(B, F)`, in
                place of the encoder's output.
            encoder_gradient: With `parameters`, the gradient of the ELBO at
                the encoder's output, `(B, F)`, for the encoder to follow.
                Without it the encoder is not trained.

        Returns:
            z, `(..., B, P)`.
        """
        if parameters is None or encoder_gradient is not None:
            announce(self)
        with _data_plate(x, num_data):
            weight = (num_data or len(x)) / len(x)
            q = self.infer(x) if parameters is None else self.family(parameters)
            if encoder_gradient is not None:
                follow = (self.encode(x) * encoder_gradient).sum(-1)
                # Its value is zero: it adds its gradient to the ELBO's.
                zero = follow.detach() - follow
                pyro.factor("encoder", zero, has_rsample=True)
            return declare_latents(*self.gradient(q, x, weight))

    def _amortized(self) -> AmortizedGuide:
        if isinstance(self.distribution, AmortizedGuide):
            return self.distribution
        raise ValueError(
            f"the guide is {type(self.distribution).__name__}; expected an "
            "AmortizedGuide, with an encoder and family(parameters): use one "
            "of pyro_vae.parts.guides, or derive your own from AmortizedGuide"
        )


def _data_plate(x: Tensor, num_data: float | None) -> pyro.plate:
    """Returns the plate of the images, the rightmost dimension of all sites."""
    size = len(check_images(x))
    if num_data is not None and num_data < size:
        raise ValueError(
            f"num_data is {num_data}; expected the size of the data set, at "
            f"least that of the minibatch, {size}"
        )
    indices = torch.arange(size, device=x.device)
    full_size: Any = num_data or size  # a share of N may be a fraction
    return pyro.plate("data", full_size, subsample=indices)


def check_images(x: Tensor) -> Tensor:
    """Returns images as they are.

    Raises:
        ValueError: If they are not a batch of flattened images, `(B, D)`.
    """
    if x.dim() != 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected a batch of flattened "
            "images, (B, D): use x.flatten(1)"
        )
    return x
