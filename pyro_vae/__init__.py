"""pyro_vae: variational autoencoders as Pyro model/guide pairs."""

from pyro_vae.building import build
from pyro_vae.config import Config
from pyro_vae.guides import (
    DiagonalLaplace,
    DiagonalNormal,
    FlowGuide,
    FullNormal,
)
from pyro_vae.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder
from pyro_vae.objectives import make_objective
from pyro_vae.priors import (
    FlowPrior,
    Laplace,
    Logistic,
    MixturePrior,
    StandardNormal,
    StudentT,
    VampPrior,
)
from pyro_vae.svi import CompiledSVI
from pyro_vae.training import fit
from pyro_vae.vae import VAE

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "VAE",
    "Bernoulli",
    "CompiledSVI",
    "Config",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DiagonalLaplace",
    "DiagonalNormal",
    "FlowGuide",
    "FlowPrior",
    "FullNormal",
    "Gaussian",
    "Laplace",
    "Logistic",
    "MixturePrior",
    "StandardNormal",
    "StudentT",
    "VampPrior",
    "__version__",
    "build",
    "fit",
    "make_objective",
]
