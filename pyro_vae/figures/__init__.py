"""Figures: arrays in, a matplotlib Figure out. Nothing is shown or saved."""

from pyro_vae.figures.amortization import amortization
from pyro_vae.figures.benchmark import benchmark
from pyro_vae.figures.gradients import gradients
from pyro_vae.figures.images import image_grid, manifold
from pyro_vae.figures.latents import latent_plane, latent_scatter, state_usage
from pyro_vae.figures.posteriors import (
    Panel,
    bound_curve,
    gap_histogram,
    posteriors,
)
from pyro_vae.figures.traces import compare_traces, elbo_curves

__all__ = [
    "Panel",
    "amortization",
    "benchmark",
    "bound_curve",
    "compare_traces",
    "elbo_curves",
    "gap_histogram",
    "gradients",
    "image_grid",
    "latent_plane",
    "latent_scatter",
    "manifold",
    "posteriors",
    "state_usage",
]
