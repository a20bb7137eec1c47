"""A page to explore a latent space in: one file, opened by any browser."""

from pyro_vae.explorer.page import Exhibit, render

__all__ = ["Exhibit", "render"]
