"""Which estimators of the ELBO can be compiled, and what they report."""

from typing import Any

from pyro.infer import ELBO, TraceTailAdaptive_ELBO
from torch import Tensor


class ReportingELBO(ELBO):
    """A Pyro estimator that reports a number beside its loss: the ELBO, say.

    A subclass has the methods of Pyro's estimators, `loss` and
    `loss_and_grads` (and `_get_trace`, which Pyro declares abstract), and
    calls `take_report` in `loss_and_grads`. A compiled step does not run
    these methods: its graph computes the report, and `CompiledSVI` calls
    `take_report`. So `report` returns the same under `pyro.infer.SVI`.

    Attributes:
        can_be_compiled: Whether `CompiledSVI` can record `loss_and_grads`:
            whether all that it does are operations on tensors, the same at
            every step.
    """

    can_be_compiled: bool = True
    _report: Tensor | None = None

    def report(self) -> Tensor:
        """Returns the tensor that the last step reported.

        Raises:
            ValueError: If there was no step yet.
        """
        if self._report is None:
            raise ValueError(
                f"{type(self).__name__} has nothing to report; expected a "
                "step, or a call of loss_and_grads, before"
            )
        return self._report

    def take_report(self, value: Tensor) -> None:
        """Keeps the tensor that a step reports, which has no gradient."""
        self._report = value


def can_compile(loss: object) -> bool:
    """Returns whether `CompiledSVI` may record an estimator.

    It may, unless the estimator has a false attribute `can_be_compiled`.
    """
    return getattr(loss, "can_be_compiled", True)


def computes_loss(loss: object) -> bool:
    """Returns whether an estimator computes its loss, and not gradients alone.

    Pyro's tail-adaptive one does not: it says that its loss is infinite.
    """
    return not isinstance(loss, TraceTailAdaptive_ELBO)


def make_recordable(loss: Any) -> Any:
    """Returns the estimator that `CompiledSVI` records in a given one's place.

    It is the same one, but for Pyro's `Jit` estimators and the compiled ones
    of this package: of those it is the eager estimator with the same options.

    Raises:
        ValueError: If the estimator says that it cannot be compiled.
    """
    if not can_compile(loss):
        raise ValueError(
            f"the loss is {type(loss).__name__}, which cannot be compiled; "
            "expected another one: use pyro.infer.SVI"
        )
    if not isinstance(loss, ELBO):
        return loss
    kinds = type(loss).__mro__
    eager_kind = next(kind for kind in kinds if not _is_compiled(kind))
    if eager_kind is kinds[0]:
        return loss
    eager: Any = object.__new__(eager_kind)
    eager.__dict__ = loss.__dict__  # the same options, also when they change
    return eager


def _is_compiled(kind: type) -> bool:
    """Returns whether a class of estimators compiles something itself."""
    return kind.__name__.startswith("Jit") or hasattr(kind, "num_compilations")
