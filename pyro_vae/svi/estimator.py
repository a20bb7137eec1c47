"""Which estimators of the ELBO can be compiled, and what they report."""

from pyro.infer import (
    ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor

LOSSES = (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO, TraceEnum_ELBO)


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


def can_compile(loss: ELBO) -> bool:
    """Returns whether `CompiledSVI` takes an estimator.

    It takes the estimators of `LOSSES`, but not their subclasses, which may
    do anything, and each `ReportingELBO` whose `can_be_compiled` is true.
    """
    if isinstance(loss, ReportingELBO):
        return loss.can_be_compiled
    return type(loss) in LOSSES


def check_estimator(loss: ELBO) -> None:
    """Raises ValueError for an estimator that cannot be compiled."""
    if not can_compile(loss):
        names = ", ".join(kind.__name__ for kind in LOSSES)
        raise ValueError(
            f"the loss is {type(loss).__name__}; expected one of {names}, or "
            "a ReportingELBO whose can_be_compiled is true: use "
            "pyro.infer.SVI for another one"
        )
