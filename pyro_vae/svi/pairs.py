"""A model and a guide with the estimator of their loss, run eagerly."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.svi.compat import get_unconstrained, list_baselines
from pyro_vae.svi.estimator import ReportingELBO, computes_loss
from pyro_vae.svi.numbers import Numbers
from pyro_vae.svi.optimizers import clip_gradients
from pyro_vae.svi.places import is_foreign
from pyro_vae.svi.reads import Reads
from pyro_vae.svi.updates import has_stepped


@dataclass
class Run:
    """The results of one run of a pair.

    Attributes:
        losses: The loss, `()`, or several. Of an estimator that computes none
            it is 0, or NaN if a gradient is not finite.
        stepped: The parameters that have a gradient.
        gradients: The gradient of each of these.
        announced: All parameters that the pair announced.
        names: Their names in Pyro's store.
        report: The estimator's report, if it is a `ReportingELBO`.
    """

    losses: list[Tensor]
    stepped: list[Tensor]
    gradients: list[Tensor]
    announced: list[Tensor]
    names: list[str]
    report: Tensor | None

    def is_finite(self) -> Tensor:
        """Returns whether all losses are finite, as a tensor, `()`."""
        return torch.stack([loss.isfinite() for loss in self.losses]).all()

    def by_parameter(self) -> dict[Tensor, Tensor]:
        """Returns the gradient of each parameter that has one."""
        return dict(zip(self.stepped, self.gradients, strict=True))


@dataclass(frozen=True)
class Pair:
    """A model and a guide with the estimator of their loss.

    Attributes:
        model: A Pyro model.
        guide: Its guide.
        loss: An estimator, or a function.
        loss_and_grads: A function that also computes gradients, or None.
        clip_norm: The largest norm of all gradients together, or None.
    """

    model: Callable
    guide: Callable
    loss: Any
    loss_and_grads: Callable | None
    clip_norm: float | None

    def is_same(self, other: "Pair") -> bool:
        """Returns whether another pair has the same parts."""
        return (
            self.model is other.model
            and self.guide is other.guide
            and self.loss is other.loss
            and self.loss_and_grads is other.loss_and_grads
            and self.clip_norm == other.clip_norm
        )

    def with_loss(self, loss: Any) -> "Pair":
        """Returns the same pair with another estimator of its loss."""
        return replace(self, loss=loss)

    def run(self, args: tuple, kwargs: dict) -> Run:
        """Computes losses and gradients, and leaves no gradient behind.

        Warns:
            UserWarning: If no parameter has a gradient.
        """
        with torch.enable_grad(), poutine.trace(param_only=True) as capture:
            value = self._compute(args, kwargs)
            # By identity: one parameter may have several names.
            for name in list_baselines():  # which are no parameters
                capture.trace.nodes.pop(name, None)
            announced = list(dict.fromkeys(get_unconstrained(capture.trace)))
        clip_gradients(announced, self.clip_norm)
        grads = {p: p.grad for p in announced if p.grad is not None}
        for param in announced:
            param.grad = None
        if not grads and not any(map(has_stepped, announced)):
            warnings.warn(
                "no parameter has a gradient, so that steps train nothing; "
                "expected pyro.param or pyro.module statements in the model "
                "or the guide, and no other pair's parameters under their "
                "names in Pyro's store: pyro.clear_param_store() empties it",
                stacklevel=1,  # one place, so that it is said once
            )
        if not computes_loss(self.loss):
            value = sum((0 * grad).sum() for grad in grads.values())
        losses = [torch.as_tensor(v).detach() for v in listed(value)]
        if grads:  # a loss that is a number has their device and dtype
            like = next(iter(grads.values()))
            losses = [loss.to(like) for loss in losses]
        report = None
        if isinstance(self.loss, ReportingELBO):
            report = self.loss.report()
        names = list(capture.trace.nodes)
        return Run(
            losses, [*grads], [*grads.values()], announced, names, report
        )

    def read(
        self, called: Iterable[Callable], numbers: Numbers | None = None
    ) -> Reads:
        """Reads the code of the pair, its estimator, and of what it calls."""
        own = []
        if not is_foreign(type(self.loss).__module__):
            own = [getattr(self.loss, "loss_and_grads", self.loss)]
        roots = (self.model, self.guide, *own, *called)
        return Reads(*roots, numbers=numbers)

    def compute_loss(self, args: tuple, kwargs: dict) -> Any:
        """Computes the loss, or a tuple of losses, without gradients."""
        function = getattr(self.loss, "loss", self.loss)
        return function(self.model, self.guide, *args, **kwargs)

    def _compute(self, args: tuple, kwargs: dict) -> Any:
        call = (self.model, self.guide, *args)
        both = getattr(self.loss, "loss_and_grads", self.loss_and_grads)
        if both is not None:
            return both(*call, **kwargs)
        loss = self.loss(*call, **kwargs)
        if getattr(loss, "requires_grad", False):
            loss.backward()
        return loss


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps warnings to itself, of a run that repeats another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def listed(losses: Any) -> list[Any]:
    """Returns the losses as a list: one, or the entries of a tuple."""
    return list(losses) if isinstance(losses, tuple) else [losses]
