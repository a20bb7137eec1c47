"""A compiled step, and what is known of it."""

from dataclasses import dataclass

from torch import Tensor

from pyro_vae.svi.graphs import Program
from pyro_vae.svi.places import Place


@dataclass
class Step:
    """A compiled step.

    Attributes:
        program: Takes the parameters, the arguments' tensors and those that
            the code reads elsewhere; returns losses, gradients, what it leaves
            in places, and the report.
        num_params: The number of parameters that it takes.
        num_losses: The number of losses: one, or those of a tuple.
        stepped: The parameters that have a gradient.
        announced: Those that the pair announced, which the optimizer steps.
        names: Their names in Pyro's store.
        left: The places where the pair leaves another tensor at every run.
        buffers: The buffers that it changes in place.
        has_report: Whether its last result is the estimator's report.
        numbers: The numbers that are inputs, as they were when it was
            recorded; none once others have been tried as well.
        num_backwards: How often a parameter is given a gradient, at most.
    """

    program: Program
    num_params: int
    num_losses: int
    stepped: list[Tensor]
    announced: list[Tensor]
    names: list[str]
    left: list[Place]
    buffers: list[Tensor]
    has_report: bool
    numbers: tuple[float, ...]
    num_backwards: int
