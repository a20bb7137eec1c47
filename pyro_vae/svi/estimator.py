"""What an estimator of your own tells CompiledSVI."""

from abc import abstractmethod

from pyro.infer import ELBO
from torch import Tensor


class ReportingELBO(ELBO):
    """A Pyro estimator that reports a tensor beside its loss.

    Attributes:
        can_be_compiled: Whether `loss_and_grads` consists of tensor operations
            that `CompiledSVI` can record.
    """

    can_be_compiled: bool = True

    @abstractmethod
    def report(self) -> Tensor:
        """Returns what the last `loss_and_grads` reported, a tensor."""

    @abstractmethod
    def take_report(self, value: Tensor) -> None:
        """Takes the report that a compiled step has computed."""
