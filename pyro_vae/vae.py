"""VAE: joins a prior, a likelihood and a guide into a Pyro pair."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.inference import Amortized, Inference
from pyro_vae.pair import Guide, Model, check_images, state_without_marks
from pyro_vae.parts.checks import check_latents, check_part, check_sizes
from pyro_vae.parts.contracts import (
    AmortizedGuide,
    Likelihood,
    check_distribution,
)
from pyro_vae.parts.distributions import (
    NormalMixture,
    center,
    count_states,
    most_probable_state,
    observe_component,
    weighted_draws,
)
from pyro_vae.parts.gradient_estimators import (
    GradientEstimator,
    choose_gradient,
)
from pyro_vae.parts.labels import give_label
from pyro_vae.parts.likelihoods import check_data

Labels = Tensor | int | None  # `(B,)`, or one for all; None without labels
IMPUTED = 10_000_000  # numbers held at a time by impute


class VAE(nn.Module):
    """A variational autoencoder: a prior, a likelihood and a guide.

    `vae.model` and `vae.guide` are Pyro callables `(x, num_data=None)` for any
    of Pyro's inference algorithms, and modules that hold the parameters.

    Where prior and guide are both a `NormalMixture`, its component is a site
    of its own, `y`, before `z`. Discrete sites are marked to be enumerated.

    Args:
        prior: `prior()` is p(z), batch shape `()`, event shape `(P,)`.
        likelihood: `likelihood(z)` is p(x | z), batch shape `z.shape[:-1]`,
            event shape `(D,)`.
        guide: `guide(x)` is q(z | x), batch shape `(B,)`, event shape `(P,)`.
        gradient: The estimator of the gradient through a draw of z; by default
            the pathwise one, or enumeration where z is discrete.
        inference: Where q's parameters come from; by default the encoder.
        num_labels: K, the number of classes, for a conditional VAE of
            p(x | y): likelihood and guide take their inputs with one-hot
            labels, `(..., P + K)` and `(B, D + K)`, and every method below
            takes `labels`. p(z) does not depend on the label. 0 for no labels.

    Attributes:
        model: The Pyro model.
        guide: The Pyro guide. It has the `encoder` and the `family` of the
            guide that was passed, which itself is `guide.distribution`.
        inference: The way of inference.
        recipe: What rebuilds this VAE, if it was built from a configuration.

    Raises:
        ValueError: If the gradient estimator cannot take such latents, a part
            is not what its place asks for, or this package's own parts are of
            sizes that do not fit together, or E-steps have a guide that is no
            `AmortizedGuide`.

    References:
        Auto-Encoding Variational Bayes, D. P. Kingma and M. Welling, 2014.
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        guide: nn.Module,
        gradient: GradientEstimator | None = None,
        inference: Inference | None = None,
        num_labels: int = 0,
    ):
        super().__init__()
        for part, place in (
            (prior, "prior"),
            (likelihood, "likelihood"),
            (guide, "guide"),
        ):
            check_part(part, place)
        name = f"prior {type(prior).__name__}"
        p = check_distribution(prior(), name, "p(z)", torch.Size())
        gradient = gradient or choose_gradient(p)
        if not gradient.can_take(p):
            raise ValueError(
                f"the gradient is {type(gradient).__name__} for a prior of "
                f"type {type(prior).__name__}; expected {gradient.takes}"
            )
        inference = inference or Amortized()
        if not (inference.is_amortized or isinstance(guide, AmortizedGuide)):
            raise ValueError(
                f"the inference is {type(inference).__name__} with a guide of "
                f"type {type(guide).__name__}; expected an AmortizedGuide, "
                "whose family(parameters) E-steps climb in: derive the guide "
                "from AmortizedGuide, or use Amortized()"
            )
        check_sizes(p, likelihood, guide, num_labels)
        self.num_labels = num_labels
        self.model = Model(prior, likelihood, num_labels)
        self.guide = Guide(guide, gradient, num_labels)
        self.inference = inference
        self.recipe: Mapping[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return state_without_marks(self)

    @property
    def prior(self) -> nn.Module:
        """The prior module, p(z)."""
        return self.model.prior

    @property
    def likelihood(self) -> nn.Module:
        """The likelihood module, p(x | z)."""
        return self.model.likelihood

    @property
    def num_states(self) -> int:
        """The number of states of z or of its component y; 1 if continuous."""
        return count_states(self.prior())

    @property
    def has_component(self) -> bool:
        """Whether z has a component y, which labels can make known."""
        return isinstance(self.prior(), NormalMixture)

    def given(self, label: int) -> "VAE":
        """Returns the VAE of one label's p(x | y), which takes no labels.

        It shares its parts with this one.

        Raises:
            ValueError: If there is no such label.
        """
        if not 0 <= label < self.num_labels:
            raise ValueError(
                f"label is {label} of a VAE with {self.num_labels} labels; "
                "expected one from 0 on, of a VAE with labels"
            )
        return VAE(
            self.prior,
            give_label(self.likelihood, label, self.num_labels),
            give_label(self.guide.distribution, label, self.num_labels),
            self.guide.gradient,
            self.inference,
        )

    def infer(self, x: Tensor, labels: Labels = None) -> Distribution:
        """Returns q(z | x) for images `(B, D)`: batch `(B,)`, event `(P,)`.

        Its parameters are the encoder's, unless `inference` finds others.

        Args:
            x: Images, `(B, D)`.
            labels: The images' labels, `(B,)`, of a conditional VAE; of a
                mixture the known components, -1 where one is not known.
        """
        parameters = self.inference.infer(self, check_images(x))
        if parameters is None:
            return self.guide.infer(x, labels)
        return observe_component(self.guide.family(parameters), labels)

    def generate(self, z: Tensor, labels: Labels = None) -> Tensor:
        """Returns the mean images `(..., D)` of latents `(..., P)`."""
        return self.model.decode(z, labels=labels).mean

    @torch.no_grad()
    def sample(self, n: int, labels: Labels = None) -> Tensor:
        """Returns the mean images, `(n, D)`, of n latents from the prior."""
        return self.generate(self.prior().sample((n,)), labels)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, labels: Labels = None) -> Tensor:
        """Returns the mean images, `(B, D)`, at the centers of q(z | x)."""
        p = self.model.decode(center(self.infer(x, labels)), labels=labels)
        if isinstance(self.likelihood, Likelihood):
            return self.likelihood.mean_like(p, x)
        return p.mean

    @torch.no_grad()
    def impute(
        self, x: Tensor, num_samples: int = 100, labels: Labels = None
    ) -> Tensor:
        r"""Returns x with means in the place of NaN, by importance sampling.

        .. math:: E(x_d \mid x_o) \approx \sum_s \tilde{w}_s E(x_d \mid z_s),
            \quad \tilde{w}_s \propto p(z_s) p(x_o \mid z_s) / q(z_s \mid x),
            \quad z_s \sim q(z \mid x)

        where x_o is what was observed, which stays as it is, and the weights
        add up to 1. The draws come from torch's global generator.

        Args:
            x: Images, `(B, D)`, NaN where a value was not observed.
            num_samples: S, the number of samples of z for each image.
            labels: The images' labels, `(B,)`, of a conditional VAE.

        Raises:
            ValueError: If x is outside the likelihood's support, or holds NaN
                and the likelihood takes none.

        References:
            MIWAE, P.-A. Mattei and J. Frellsen, 2019.
        """
        check_data(self.likelihood, check_images(x))
        size = max(1, IMPUTED // (num_samples * x.shape[-1]))
        parts = [x.split(size)]
        if labels is not None:
            labels = torch.as_tensor(labels, device=x.device)
            parts.append(labels.expand(len(x)).split(size))
        means = [
            self._mean_given(num_samples, *part)
            for part in zip(*parts, strict=True)
        ]
        return torch.where(x.isnan(), torch.cat(means), x)

    def _mean_given(
        self, num_samples: int, x: Tensor, labels: Labels = None
    ) -> Tensor:
        """Returns the mean of whole images given the observed, `(B, D)`."""
        q = self.infer(x, labels)
        z = q.sample(torch.Size([num_samples]))
        p = self.model.decode(z, None, labels if self.num_labels else None)
        log_weight = self.prior().log_prob(z) + p.log_prob(x) - q.log_prob(z)
        return (log_weight.softmax(0).unsqueeze(-1) * p.mean).sum(0)

    @torch.no_grad()
    def assign(self, x: Tensor, labels: Labels = None) -> Tensor:
        """Returns each image's most probable state, `(B,)` integers.

        For a mixture this is the component y; for one-hot variables it is the
        place of z among their configurations. It is 0 for continuous latents.
        """
        return most_probable_state(self.infer(x, labels)).to(x.device)

    def compute_elbo(
        self,
        x: Tensor,
        num_particles: int = 1,
        q: Distribution | None = None,
        labels: Labels = None,
    ) -> Tensor:
        r"""Returns an estimate of each image's ELBO.

        .. math:: \frac{1}{S} \sum_s
            \log p(x, z_s) - \log q(z_s \mid x), \quad z_s \sim q(z \mid x)

        Discrete states are summed over, up to 1,024 of them, so that the ELBO
        of one-hot latents is exact.

        Args:
            x: Images, `(B, D)`.
            num_particles: S, the number of samples of z per image.
            q: q(z | x), batch shape `(B,)`; by default `infer(x)`.
            labels: The images' labels, `(B,)`, of a conditional VAE, whose
                ELBO bounds log p(x | y).

        Returns:
            `(B,)`, nats per image, every normalizing constant kept.
        """
        expected_log_likelihood, kl = self.compute_elbo_terms(
            x, num_particles, q, labels
        )
        return expected_log_likelihood - kl

    def compute_elbo_terms(
        self,
        x: Tensor,
        num_particles: int = 1,
        q: Distribution | None = None,
        labels: Labels = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the ELBO's two terms, from the same samples.

        .. math::
            E_q \log p(x \mid z) \approx \frac{1}{S} \sum_s \log p(x \mid z_s),
            \quad KL(q, p) \approx
            \frac{1}{S} \sum_s \log q(z_s \mid x) - \log p(z_s)

        Args:
            x: Images, `(B, D)`.
            num_particles: S, the number of samples of z per image.
            q: q(z | x), batch shape `(B,)`; by default `infer(x)`.
            labels: The images' labels, `(B,)`, of a conditional VAE.

        Returns:
            The expected log-likelihood and the KL, each `(B,)`, in nats.

        Raises:
            ValueError: If the guide's latents are not the prior's, or the
                likelihood is not a distribution of x.
        """
        q = self.infer(x, labels) if q is None else q
        p = self.prior()
        check_latents(q, p)
        draws = weighted_draws(q, p, num_particles)
        if draws.z.dim() == 4:  # a z for each component
            x = x.unsqueeze(1)
            if labels is not None:
                labels = torch.as_tensor(labels).view(-1, 1)
        p_x = self.model.decode(
            draws.z, x.shape[-1], labels if self.num_labels else None
        )
        log_likelihood = p_x.log_prob(x)
        return draws.expectation(log_likelihood), draws.expectation(
            draws.log_ratio
        )
