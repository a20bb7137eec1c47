"""Functions that draw arrays and return a matplotlib Figure.

They neither show nor save it: `figure.savefig("name.png")` does.
"""

from pyro_vae.figures.history import compare_histories, elbo_curves
from pyro_vae.figures.images import image_grid, manifold
from pyro_vae.figures.latents import (
    Plane,
    latent_plane,
    latent_scatter,
)
from pyro_vae.figures.posteriors import (
    Panel,
    bound_curve,
    gap_histogram,
    posterior_panels,
)
from pyro_vae.figures.usage import state_usage

__all__ = [
    "Panel",
    "Plane",
    "bound_curve",
    "compare_histories",
    "elbo_curves",
    "gap_histogram",
    "image_grid",
    "latent_plane",
    "latent_scatter",
    "manifold",
    "posterior_panels",
    "state_usage",
]
