"""VAE: joins a prior, a likelihood and a guide into a Pyro pair."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checkpoints import (
    FileError,
    read_tensors,
    write_json,
    write_tensors,
)
from pyro_vae.distributions import (
    MAX_STATES,
    NormalMixture,
    OneHots,
    center,
    count_states,
)
from pyro_vae.gradients import choose_gradient
from pyro_vae.pair import Guide, Model, check_images

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BEST = "model.best.safetensors"  # of early stopping


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
        gradient: How the gradient gets past a draw of z, of `gradients`; by
            default it is pathwise, or enumerated where z is discrete.

    Raises:
        ValueError: If the gradient estimator cannot take such latents.

    References:
        Auto-Encoding Variational Bayes, D. P. Kingma and M. Welling, 2014.
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        guide: nn.Module,
        gradient: nn.Module | None = None,
    ):
        super().__init__()
        p = prior()
        gradient = gradient or choose_gradient(p)
        if not gradient.can_take(p):
            raise ValueError(
                f"the gradient is {type(gradient).__name__} for a prior of "
                f"type {type(prior).__name__}; expected {gradient.takes}"
            )
        self.model = Model(prior, likelihood)
        self.guide = Guide(guide, gradient)
        self.inference: Callable[[Tensor], Tensor] | None = None
        self.recipe: dict[str, Any] | None = None

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
        """The discrete states that z (or its component y) can be in, or 1."""
        return count_states(self.prior())

    def infer(self, x: Tensor) -> dist.Distribution:
        """Returns q(z | x) for images `(B, D)`: batch `(B,)`, event `(P,)`.

        By the encoder, unless `inference` finds the images' own parameters.
        """
        guide = self.guide.distribution
        if self.inference is None:
            return guide(check_images(x))
        return guide.family(self.inference(check_images(x)))

    def generate(self, z: Tensor) -> Tensor:
        """Returns the mean images `(..., D)` of latents `(..., P)`."""
        return self.likelihood(z).mean

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Returns the mean images, `(n, D)`, of n latents from the prior."""
        return self.generate(self.prior().sample((n,)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Returns the mean images, `(B, D)`, of the guide's centres."""
        return self.generate(center(self.infer(x)))

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """Returns each image's most probable state, `(B,)` integers.

        The component y of a mixture, or the place of a one-hot z among its
        configurations; 0 where the latents are continuous.
        """
        q = self.infer(x)
        if isinstance(q, NormalMixture):
            return q.component
        if isinstance(q, OneHots):
            return q.index(q.mode)
        return torch.zeros(len(x), dtype=torch.long, device=x.device)

    def compute_elbo(
        self,
        x: Tensor,
        num_particles: int = 1,
        q: dist.Distribution | None = None,
    ) -> Tensor:
        r"""Returns an estimate of each image's ELBO.

        .. math:: \frac{1}{S} \sum_s
            \log p(x, z_s) - \log q(z_s \mid x), \quad z_s \sim q(z \mid x)

        Discrete states are summed over, up to `MAX_STATES`: a categorical
        ELBO is exact.

        Args:
            x: Images, `(B, D)`.
            num_particles: S.
            q: In the place of `infer(x)`, batch shape `(B,)`.

        Returns:
            `(B,)`, nats per image, every normalising constant kept.
        """
        expected_log_likelihood, kl = self.compute_elbo_terms(
            x, num_particles, q
        )
        return expected_log_likelihood - kl

    def compute_elbo_terms(
        self,
        x: Tensor,
        num_particles: int = 1,
        q: dist.Distribution | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the ELBO's two terms, from the same samples.

        .. math::
            E_q \log p(x \mid z) \approx \frac{1}{S} \sum_s \log p(x \mid z_s),
            \quad KL(q, p) \approx
            \frac{1}{S} \sum_s \log q(z_s \mid x) - \log p(z_s)

        Args:
            x: Images, `(B, D)`.
            num_particles: S.
            q: In the place of `infer(x)`, batch shape `(B,)`.

        Returns:
            The expected log-likelihood and the KL, each `(B,)`, in nats.
        """
        q, p = self.infer(x) if q is None else q, self.prior()
        if isinstance(q, NormalMixture):
            z = q.component_distribution.rsample((num_particles,))
            log_q_y = q.mixture_distribution.logits
            log_q = log_q_y + q.component_distribution.log_prob(z)
            log_p = p.mixture_distribution.logits
            log_p = log_p + p.component_distribution.log_prob(z)
            log_likelihood = self.likelihood(z).log_prob(x.unsqueeze(1))
            weight = log_q_y.exp() / num_particles
            over = (0, -1)
        else:
            z, weight = _weighted_latents(q, num_particles)
            log_q, log_p = q.log_prob(z), p.log_prob(z)
            log_likelihood = self.likelihood(z).log_prob(x)
            over = (0,)
        expected_log_likelihood = (weight * log_likelihood).sum(over)
        return expected_log_likelihood, (weight * (log_q - log_p)).sum(over)

    def save(self, folder: str | Path, about: dict[str, Any] | None = None):
        """Writes `model.safetensors`, and `config.json` to read, into a folder.

        Args:
            folder: Made if it does not exist.
            about: Further JSON-able entries for `config.json`.

        Raises:
            ValueError: If this VAE was not made by `build(config)`, so that
                no configuration could rebuild it.
        """
        if self.recipe is None:
            raise ValueError(
                "this VAE has no configuration to be rebuilt from; expected "
                "one made by build(config): save its state_dict() yourself"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, {**self.recipe, **(about or {})})
        self.save_weights(folder / WEIGHTS)

    def save_weights(self, path: Path) -> None:
        """Writes the weights, and the configuration if there is one."""
        write_tensors(path, self.state_dict(), self.recipe or {}, "model")

    @classmethod
    def load(cls, folder: str | Path, best: bool = False) -> "VAE":
        """Rebuilds what `save` wrote, in a run's folder too, on the CPU.

        Args:
            folder: The folder.
            best: The weights of the best validation ELBO, which a fit with
                early stopping keeps there, in place of the last ones.

        Raises:
            FileError: If a file is missing, damaged, or not ours.
        """
        # Upwards, hence deferred: a configuration knows how to build a VAE.
        from pyro_vae.building import build
        from pyro_vae.config import Config

        path = Path(folder) / (BEST if best else WEIGHTS)
        tensors, recipe = read_tensors(path, "model")
        try:
            config = Config.from_dict(recipe["config"])
            image_shape = recipe.get("image_shape")  # older ones have none
            vae = build(config, recipe["data_dim"], image_shape)
            vae.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FileError(
                f"{path} does not describe its own model: {error}"
            ) from None
        return vae

    def describe(
        self,
        config: Any,
        data_dim: int,
        image_shape: Sequence[int] | None = None,
    ) -> "VAE":
        """Notes the configuration that rebuilds this VAE, and returns it."""
        self.recipe = {
            "config": asdict(config),
            "data_dim": data_dim,
            "image_shape": image_shape and list(image_shape),
        }
        return self


def _weighted_latents(
    q: dist.Distribution, num_samples: int
) -> tuple[Tensor, Tensor | float]:
    """Latents and the weights that make a sum over them an expectation."""
    if 1 < count_states(q) <= MAX_STATES:
        z = q.enumerate_support(expand=False)
        return z, q.log_prob(z).exp()
    draw = q.rsample if q.has_rsample else q.sample
    return draw((num_samples,)), 1 / num_samples
