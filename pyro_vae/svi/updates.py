"""What updates parameters, given their gradients: the contract, and Pyro's way.

Pyro's and torch's optimizers step one parameter, or one group of them, after
the other, in Python; `FusedUpdates` does without that for the most usual ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi.compat import WeakTensorKeys

# What has stepped: a parameter steps then at each step that announces it, by
# its moments, also where it has no gradient. So it is under pyro.infer.SVI,
# which leaves zeros in its gradient. All SVI objects share this.
_stepped = WeakTensorKeys()


def mark_stepped(params: Iterable[Tensor]) -> None:
    """Notes that parameters step."""
    for param in params:
        _stepped[param] = True


def has_stepped(param: Tensor) -> bool:
    """Returns whether a parameter has stepped before."""
    return param in _stepped


class Updates(ABC):
    """Updates parameters in place, given their gradients.

    A step may update a part of the parameters: those that the pair announced
    in it. The sets of parameters that steps update are registered by `add`.

    Args:
        optim: The optimizer, which has options and state.
    """

    def __init__(self, optim: PyroOptim | torch.optim.Optimizer):
        self.optim = optim
        self.sets: list[list[Tensor]] = []

    def add(self, params: list[Tensor]) -> int:
        """Registers the parameters of a kind of step, and returns its index.

        Args:
            params: They are kept; a list that is changed afterwards is not
                seen.
        """
        for index, known in enumerate(self.sets):
            if known is params or [*map(id, known)] == [*map(id, params)]:
                return index
        self.sets.append(params)
        return len(self.sets) - 1

    @abstractmethod
    def step(
        self, index: int, grads: Sequence[Tensor], skip: Tensor | None
    ) -> None:
        """Updates the parameters of a registered set.

        Args:
            index: The set's index.
            grads: The gradients of its parameters, in their order.
            skip: Where this flag is 1, nothing is updated.
        """


class EagerUpdates(Updates):
    """Steps as the optimizer itself does, on gradients that it is given."""

    def step(
        self, index: int, grads: Sequence[Tensor], skip: Tensor | None
    ) -> None:
        if skip is not None and skip.item():
            return
        params = self.sets[index]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()  # the graph will write there again
        try:
            if isinstance(self.optim, PyroOptim):
                self.optim(params)
            else:  # over parameters that it was given
                self.optim.step()
        finally:
            for param in params:
                param.grad = None
