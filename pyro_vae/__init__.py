"""pyro_vae: variational autoencoders as Pyro model/guide pairs."""

from pyro_vae.config import Config, build
from pyro_vae.guides import DiagonalLaplace, DiagonalNormal
from pyro_vae.likelihoods import Gaussian
from pyro_vae.networks import MLP
from pyro_vae.objectives import make_objective
from pyro_vae.priors import Laplace, StandardNormal
from pyro_vae.svi import CompiledSVI
from pyro_vae.training import fit
from pyro_vae.vae import VAE

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "VAE",
    "CompiledSVI",
    "Config",
    "DiagonalLaplace",
    "DiagonalNormal",
    "Gaussian",
    "Laplace",
    "StandardNormal",
    "__version__",
    "build",
    "fit",
    "make_objective",
]
