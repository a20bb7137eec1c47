"""Which of Pyro's ELBO estimators is the objective, by name."""

from pyro.infer import ELBO

from pyro_vae.gradients import BaselineELBO
from pyro_vae.vae import VAE


def make_objective(vae: VAE, num_particles: int = 1) -> ELBO:
    """Makes the Pyro estimator whose loss is minus the objective of a VAE.

    It is the one that belongs to the VAE's gradient estimator: `Trace_ELBO`,
    `TraceEnum_ELBO` or `TraceGraph_ELBO`.

    Args:
        vae: The VAE.
        num_particles: S, the samples of z per image, drawn as one tensor
            unless there is a baseline.
    """
    loss = vae.guide.gradient.loss
    return loss(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1 and loss is not BaselineELBO,
        max_plate_nesting=1,  # the plate of the images
    )
