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
    `loss_and_grads`, and calls `take_report` in the latter. A compiled step
    does not run them: it computes the report in its graph, and calls
    `take_report` in the estimator's place. So `report` answers alike under
    `pyro.infer.SVI` and `CompiledSVI`.

    Attributes:
        can_be_compiled: Whether `CompiledSVI` can record `loss_and_grads`:
            whether all that it does are operations on tensors, the same at
            every step.
    """

    can_be_compiled: bool = True
    _report: Tensor | None = None

    def report(self) -> Tensor:
        """Returns what the last step reported.

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
        """Takes what a step reports: a tensor without a gradient."""
        self._report = value


def can_compile(loss: ELBO) -> bool:
    """Returns whether `CompiledSVI` takes an estimator.

    It takes those of `LOSSES`, whose subclasses may do anything, and each
    `ReportingELBO` that says that it can be compiled.
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
