"""Functions that draw, and return a matplotlib Figure.

Those named `plot_...` take a VAE and tensors; the others take arrays. A figure
shows itself where it is the last line of a notebook's cell, and
`figure.savefig("name.png")` writes it to a file.
"""

from pyro_vae.figures.history import compare_histories, elbo_curves
from pyro_vae.figures.images import image_grid, manifold
from pyro_vae.figures.latents import Plane, latent_plane, latent_scatter
from pyro_vae.figures.plots import (
    plot_components,
    plot_imputations,
    plot_latents,
    plot_manifold,
    plot_reconstructions,
    plot_samples,
    plot_usage,
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
    "plot_components",
    "plot_imputations",
    "plot_latents",
    "plot_manifold",
    "plot_reconstructions",
    "plot_samples",
    "plot_usage",
    "posterior_panels",
    "state_usage",
]
