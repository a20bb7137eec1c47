"""A model and a guide with the estimator of their loss, run eagerly."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from types import MethodType
from typing import Any

import torch
from pyro import get_param_store, poutine
from torch import Tensor

from pyro_vae.svi.compat_pyro import get_unconstrained, list_baselines
from pyro_vae.svi.estimator import ReportingELBO, computes_loss
from pyro_vae.svi.numbers import Numbers
from pyro_vae.svi.optimizers import clip_gradients
from pyro_vae.svi.places import is_foreign
from pyro_vae.svi.random_states import get_random_states
from pyro_vae.svi.reads import Reads
from pyro_vae.svi.rows import (
    Shapes,
    check_sites,
    list_modes,
    list_sites,
    resize_rows,
    running_aside,
)
from pyro_vae.svi.shards import Shards
from pyro_vae.svi.updates import has_stepped

ALONE = Shards()
Compute = Callable[[tuple, dict], Any]


class End:
    """What a run leaves beside losses and gradients, kept to compare with.

    Args:
        tensors: Tensors that it may have changed in place.

    Attributes:
        states: The states of torch's random generators.
        tensors: The tensors, each with a copy of its value.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        self.states = get_random_states()
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]


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
        end: What else the run has left, if it was kept.
    """

    losses: list[Tensor]
    stepped: list[Tensor]
    gradients: list[Tensor]
    announced: list[Tensor]
    names: list[str]
    report: Tensor | None
    end: "End | None" = None

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
        clip_norm: The largest norm of all gradients together, or None. That
            of several processes is known only when their gradients are summed.
        shards: The processes that share a minibatch, of which this one runs
            its rows, with the draws of the whole one.
        means: Tensors that a run moves in proportion to means over its rows.
    """

    model: Callable
    guide: Callable
    loss: Any
    loss_and_grads: Callable | None
    clip_norm: float | None
    shards: Shards = ALONE
    means: Sequence[Tensor] = ()

    def is_same(self, other: "Pair") -> bool:
        """Returns whether another pair has the same parts."""
        return (
            _are_same(self.model, other.model)
            and _are_same(self.guide, other.guide)
            and self.loss is other.loss
            and self.loss_and_grads is other.loss_and_grads
            and self.clip_norm == other.clip_norm
            and self.shards is other.shards
        )

    def with_loss(self, loss: Any) -> "Pair":
        """Returns the same pair with another estimator of its loss."""
        return replace(self, loss=loss)

    def run(self, args: tuple, kwargs: dict) -> Run:
        """Computes losses and gradients, and leaves no gradient behind.

        Warns:
            UserWarning: If no parameter has a gradient.
        """
        with (
            torch.enable_grad(),
            poutine.trace(param_only=True) as capture,
            self._drawing(self._compute, args, kwargs),
        ):
            value = self._compute(args, kwargs)
            # By identity: one parameter may have several names.
            for name in list_baselines():  # which are no parameters
                capture.trace.nodes.pop(name, None)
            announced = list(dict.fromkeys(get_unconstrained(capture.trace)))
        if self.shards.is_alone:
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
        losses = [_as_loss(loss, [*grads.values()]) for loss in listed(value)]
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
        own: list[Any] = []
        if not is_foreign(type(self.loss).__module__):
            own = [getattr(self.loss, "loss_and_grads", None), self.loss]
        if self.loss_and_grads is not None:
            own.append(self.loss_and_grads)
        roots = (self.model, self.guide, *own, *called)
        return Reads(*roots, numbers=numbers)

    def check_given(self, announced: Sequence[Tensor]) -> None:
        """Refuses gradients that are given before a step, and do not add to it.

        Raises:
            ValueError: If a sum or a norm has to be of the step's own alone.
        """
        if self.clip_norm is None and self.shards.is_alone:
            return
        given = [p.grad for p in announced if p.grad is not None]
        if any(bool(grad.any()) for grad in given):
            reason = "clip_norm is given"
            if not self.shards.is_alone:
                reason = "several processes share the minibatch"
            raise ValueError(
                "parameters have a gradient of their own before the step, and "
                f"{reason}; expected one of the two: add the penalty to the "
                "model by pyro.factor"
            )

    def compute_loss(self, args: tuple, kwargs: dict) -> Any:
        """Computes the loss, or a tuple of losses, without gradients."""
        with self._drawing(self._compute_loss, args, kwargs):
            return self._compute_loss(args, kwargs)

    def learn_loss(self, args: tuple, kwargs: dict) -> None:
        """Learns, before `compute_loss` is recorded, what it does with rows.

        Raises:
            ValueError: If that cannot be split.
        """
        self._learn(self._compute_loss, args, kwargs)

    @contextmanager
    def _drawing(
        self, compute: Compute, args: tuple, kwargs: dict
    ) -> Iterator[None]:
        """Draws, within a block, as one process would for these rows."""
        if self.shards.is_alone:
            yield
            return
        key = self._learn(compute, args, kwargs)
        with self.shards.drawing(key):
            yield

    def _learn(self, compute: Compute, args: tuple, kwargs: dict) -> Hashable:
        """Learns what a computation does with its rows, if it is not known.

        Returns:
            The name of the computation. It draws others in other modes of the
            modules, and before it has made its parameters.

        Raises:
            ValueError: If it cannot be split.
        """
        parts = (self.model, self.guide, self.loss, self.loss_and_grads)
        modes = list_modes(self.model, self.guide)
        key: tuple[Hashable, ...] = (compute.__name__, *map(id, parts), modes)
        made = self.shards.kept.get(key, (parts, set()))[1]
        if made and all(name in get_param_store() for name in made):
            key = (*key, "made")
        if self.shards.is_alone or self.shards.knows(key):
            return key
        made = set[str]()
        if not computes_loss(self.loss):
            raise ValueError(
                f"the loss is {type(self.loss).__name__}, whose gradient is "
                "no sum over the rows; expected another one, or a single "
                "process"
            )
        counts = self.shards.two_counts()

        def run(function: Compute, number: int) -> Any:
            given = resize_rows((args, kwargs), counts[0], number)
            aside = running_aside(parts[:2], self.read([]), given, self.means)
            with quietly(), aside as new:
                result = function(*given)
            made.update(new)
            return result

        self.shards.learn(key, partial(run, compute), (parts, made))
        sites, others = (run(self._list_sites, number) for number in counts)
        check_sites(sites, others)
        return key

    def _list_sites(self, args: tuple, kwargs: dict) -> Shapes:
        return list_sites(self.model, self.guide, args, kwargs)

    def _compute_loss(self, args: tuple, kwargs: dict) -> Any:
        function = getattr(self.loss, "loss", self.loss)
        return function(self.model, self.guide, *args, **kwargs)

    def _compute(self, args: tuple, kwargs: dict) -> Any:
        call = (self.model, self.guide, *args)
        own = getattr(self.loss, "loss_and_grads", None)
        both = self.loss_and_grads or own
        if both is not None:
            return both(*call, **kwargs)
        loss = self.loss(*call, **kwargs)
        if getattr(loss, "requires_grad", False):
            loss.backward()
        return loss


def _are_same(left: Callable, right: Callable) -> bool:
    """Returns whether two callables are one, or one object's one method."""
    if isinstance(left, MethodType) and isinstance(right, MethodType):
        return (
            left.__self__ is right.__self__ and left.__func__ is right.__func__
        )
    return left is right


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps warnings to itself, of a run that repeats another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _as_loss(loss: Any, gradients: Sequence[Tensor]) -> Tensor:
    """Returns a loss as a tensor, on the gradients' device.

    Its dtype is the widest of theirs, and float32 at least.
    """
    kinds = [grad.dtype.to_real() for grad in gradients]
    dtype = reduce(torch.promote_types, kinds, torch.float32)
    if not gradients:
        return torch.as_tensor(loss).detach()
    return torch.as_tensor(
        loss, dtype=dtype, device=gradients[0].device
    ).detach()


def listed(losses: Any) -> list[Any]:
    """Returns the losses as a list: one, or the entries of a tuple."""
    return list(losses) if isinstance(losses, tuple) else [losses]
