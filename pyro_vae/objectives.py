"""Which of Pyro's ELBO estimators is the objective, by name."""

from collections.abc import Callable

from pyro.infer import ELBO, Trace_ELBO

OBJECTIVES: dict[str, Callable[..., ELBO]] = {"elbo": Trace_ELBO}


def make_objective(name: str = "elbo", num_particles: int = 1) -> ELBO:
    """Makes the Pyro estimator whose loss is minus the objective.

    Args:
        name: A key of `OBJECTIVES`.
        num_particles: S, the samples of z per image, drawn as one tensor.

    Raises:
        ValueError: If there is no objective of that name.
    """
    if name not in OBJECTIVES:
        raise ValueError(
            f"objective is {name!r}; expected one of {', '.join(OBJECTIVES)}"
        )
    return OBJECTIVES[name](
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        max_plate_nesting=1,  # the plate of the images
    )
