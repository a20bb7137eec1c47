"""The Pyro pair: a model and a guide that announce their parameters."""

from typing import Any

import pyro
import torch
from pyro.distributions import Unit
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.announcing import announce, state_without_marks
from pyro_vae.parts.checks import call_part, check_latent_dim
from pyro_vae.parts.contracts import AmortizedGuide, check_distribution
from pyro_vae.parts.distributions import (
    declare_latents,
    declare_site,
    log_prob_component,
    observe_component,
)
from pyro_vae.parts.gradient_estimators import GradientEstimator
from pyro_vae.parts.labels import join_labels

Classified = tuple[Tensor, Tensor, float]  # images, labels, their weight


class Model(nn.Module):
    r"""The generative model as a Pyro callable: sample sites `z` and `x`.

    .. math:: z \sim p(z), \quad x \mid z \sim p(x \mid z)

    Args:
        prior: `prior()` is p(z).
        likelihood: `likelihood(z)` is p(x | z); with labels it takes z with
            their one-hot vectors, `(..., P + K)`, and is p(x | z, y).
        num_labels: K, the number of classes; 0 for a model without labels.
    """

    def __init__(
        self, prior: nn.Module, likelihood: nn.Module, num_labels: int = 0
    ):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.num_labels = num_labels

    def __getstate__(self) -> dict[str, Any]:
        return state_without_marks(self)

    def forward(
        self,
        x: Tensor,
        num_data: float | None = None,
        parameters: Tensor | None = None,
        encoder_gradient: Tensor | None = None,
        labels: Tensor | None = None,
        classified: Classified | None = None,
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
            labels: Where the model has labels, those of the images, `(B,)`.
            classified: For the guide; the model does not use it.

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
            p_x = self.decode(
                z, x.shape[-1], labels if self.num_labels else None
            )
            declare_site("x", p_x, obs=x)
        return z

    def decode(
        self,
        z: Tensor,
        data_dim: int | None = None,
        labels: Tensor | int | None = None,
    ) -> Distribution:
        """Returns p(x | z) for latents `(..., P)`: batch `(...)`, event `(D,)`.

        Args:
            z: Latents, `(..., P)`.
            data_dim: D, if it is known.
            labels: Where the model has labels, those of the latents, `(B,)`.

        Raises:
            ValueError: If the likelihood returns anything else.
        """
        inputs = join_labels(z, labels, self.num_labels)
        return check_distribution(
            call_part(self.likelihood, "likelihood", inputs),
            f"likelihood {type(self.likelihood).__name__}",
            "p(x | z)",
            inputs.shape[:-1],
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
        num_labels: K, the number of classes; 0 for a guide without labels.
            With labels the module takes x with their one-hot vectors,
            `(B, D + K)`, and is q(z | x, y).
    """

    def __init__(
        self,
        distribution: nn.Module,
        gradient: GradientEstimator,
        num_labels: int = 0,
    ):
        super().__init__()
        self.num_labels = num_labels
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

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Returns the unconstrained parameters lambda of images `(B, D)`.

        Returns:
            `(B, F)`.

        Raises:
            ValueError: If the guide is no `AmortizedGuide`.
        """
        inputs = self._join(x, labels)
        return call_part(self._amortized().encoder, "encoder", inputs)

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the member of the guide's family with parameters `(..., F)`.

        Raises:
            ValueError: If the guide is no `AmortizedGuide`.
        """
        return self._amortized().family(parameters)

    def infer(
        self, x: Tensor, labels: Tensor | int | None = None
    ) -> Distribution:
        """Returns q(z | x) by the encoder: batch `(B,)`, event `(P,)`.

        Raises:
            ValueError: If the module returns anything else.
        """
        inputs = self._join(x, labels)
        q = check_distribution(
            call_part(self.distribution, "guide", inputs),
            f"guide {type(self.distribution).__name__}",
            "q(z | x)",
            inputs.shape[:1],
        )
        return q if self.num_labels else observe_component(q, labels)

    def forward(
        self,
        x: Tensor,
        num_data: float | None = None,
        parameters: Tensor | None = None,
        encoder_gradient: Tensor | None = None,
        labels: Tensor | None = None,
        classified: Classified | None = None,
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
            labels: Where the guide has labels, those of the images, `(B,)`;
                for a mixture the known components, -1 where there is none.
            classified: Images, their labels, and the weight of their mean
                log q(y | x), which is added to the ELBO's gradient.

        Returns:
            z, `(..., B, P)`.
        """
        if parameters is None or encoder_gradient is not None:
            announce(self)
        with _data_plate(x, num_data):
            weight = (num_data or len(x)) / len(x)
            if parameters is None:
                q = self.infer(x, labels)
            else:
                q = self.family(parameters)
            if encoder_gradient is not None:
                follow = self.encode(x, labels) * encoder_gradient
                follow_gradient("encoder", follow.sum(-1))
            inputs = self._join(x, labels)
            z = declare_latents(*self.gradient(q, inputs, weight))
        if classified is not None:
            self._classify(*classified, num_data or len(x))
        return z

    def _join(self, x: Tensor, labels: Tensor | int | None) -> Tensor:
        """Returns what the module takes: x, with labels where it has any."""
        labels = labels if self.num_labels else None
        return join_labels(x, labels, self.num_labels)

    def _classify(
        self, x: Tensor, labels: Tensor, weight: float, num_data: float
    ) -> None:
        """Adds the gradient of log q(y | x) at known labels to the ELBO's."""
        log_q = log_prob_component(self.infer(x), labels)
        follow_gradient("labels", weight * num_data * log_q.mean())

    def _amortized(self) -> AmortizedGuide:
        if isinstance(self.distribution, AmortizedGuide):
            return self.distribution
        raise ValueError(
            f"the guide is {type(self.distribution).__name__}; expected an "
            "AmortizedGuide, with an encoder and family(parameters): use one "
            "of pyro_vae.parts.guides, or derive your own from AmortizedGuide"
        )


def follow_gradient(name: str, value: Tensor) -> None:
    """Adds the gradient of a value to the ELBO's, in a guide, and no value."""
    unit = Unit(value.detach() - value, has_rsample=True)
    infer: Any = {"is_auxiliary": True, "is_gradient": True}
    pyro.sample(name, unit, obs=unit.sample(), infer=infer)


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
