"""Pyro ELBO estimators that know of the KL's weight and report the true ELBO.

Their report is the ELBO of the last minibatch, at weight 1 and scaled by N / B
as the loss is, in nats: a tensor, `()`, that no step waits for.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.objectives import bounds
from pyro_vae.objectives.terms import Terms, read_terms
from pyro_vae.svi import ReportingELBO, can_compile
from pyro_vae.svi.compat_pyro import get_importance_trace
from pyro_vae.vae import VAE


class PathwiseELBO(ReportingELBO):
    """Minus a bound on each image, summed, with autograd's gradient.

    It takes any Pyro pair whose sites all lie in one plate, that of the
    images, and whose latents are reparameterized.

    Args:
        bound: The bound to be maximized, one of those in `bounds`.
        num_particles: S, the number of draws of z, made as one tensor.
        beta: The weight of the KL; a tensor may be changed between steps.
        elbo: The bound that is the ELBO at weight 1, to be reported.
    """

    def __init__(
        self,
        bound: bounds.Bound,
        num_particles: int = 1,
        beta: Tensor | float = 1.0,
        elbo: bounds.Bound = bounds.elbo,
    ):
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=num_particles > 1,
            max_plate_nesting=1,
        )
        self.bound, self.beta, self._elbo = bound, beta, elbo

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns the loss, `()`, to be differentiated, and keeps the report.

        Raises:
            ValueError: If the pair is not as described above.
        """
        (terms,) = self._get_traces(model, guide, args, kwargs)
        with torch.no_grad():
            self.take_report(terms.scale * self._elbo(terms, 1.0).sum())
        return -terms.scale * self.bound(terms, self.beta).sum()

    @torch.no_grad()
    def loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> float:
        """Returns the loss, a number of nats."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> float:
        """Returns the loss and leaves its gradients in the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> Terms:
        traces = get_importance_trace(
            "flat", self.max_plate_nesting, model, guide, args, kwargs
        )
        return read_terms(*traces)


class WeightedELBO(ReportingELBO):
    """One of Pyro's estimators, with a weight on the latents' log-densities.

    Args:
        estimator: The estimator, of any gradient.
        vae: The VAE. Its true ELBO is a second estimate, from other draws,
            since Pyro's loss does not come apart.
        beta: The weight of the KL, positive; a tensor may be changed between
            steps.
    """

    def __init__(self, estimator: ELBO, vae: VAE, beta: Tensor | float):
        super().__init__(num_particles=estimator.num_particles)
        # ELBO does not declare what its subclasses have.
        self.estimator: Any = estimator
        self.vae, self.beta = vae, beta
        self.can_be_compiled = can_compile(estimator)

    def loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> float:
        """Returns the loss, a number of nats."""
        with _WeighLatents(self.beta):
            return self.estimator.loss(model, guide, *args, **kwargs)

    def loss_and_grads(
        self,
        model: Callable,
        guide: Callable,
        x: Tensor,
        num_data: float | None = None,
        labels: Tensor | None = None,
        classified: Any = None,
    ) -> float:
        """Returns the loss and leaves its gradients in the parameters."""
        args = (model, guide, x, num_data)
        given = {"labels": labels, "classified": classified}
        with _WeighLatents(self.beta):
            loss = self.estimator.loss_and_grads(*args, **given)
        with torch.no_grad():
            elbo = self.vae.compute_elbo(
                x, self.num_particles, labels=labels
            ).sum()
            self.take_report(elbo * ((num_data or len(x)) / len(x)))
        return loss

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> Any:
        return self.estimator._get_trace(model, guide, args, kwargs)


class _WeighLatents(Messenger):
    """Scales the log-densities of latent sites."""

    def __init__(self, weight: Tensor | float):
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, message: Any) -> None:
        if not message["is_observed"]:
            message["scale"] = self.weight * message["scale"]
