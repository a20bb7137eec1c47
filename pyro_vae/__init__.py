"""pyro_vae: variational autoencoders as Pyro model/guide pairs."""

import sys
import warnings
from pathlib import Path
from typing import Any

if sys.orig_argv[1:3] == ["-m", "pyro_vae"] or "pyro-vae" in (
    Path(word).stem for word in sys.orig_argv[:2]
):  # the console command, which can be stopped while all else loads
    import pyro_vae.cli.start  # noqa: F401

from pyro_vae.config import (
    Config,
    DataConfig,
    FitConfig,
    ObjectiveConfig,
    TrainingConfig,
    VAEConfig,
    build,
)
from pyro_vae.inference import Amortized, EStep, LocalInference, SemiAmortized
from pyro_vae.objectives import make_objective
from pyro_vae.parts.contracts import AmortizedGuide, Likelihood, Prior
from pyro_vae.parts.guides import (
    CategoricalGuide,
    FlowGuide,
    FullNormalGuide,
    LaplaceGuide,
    MixtureGuide,
    NormalGuide,
)
from pyro_vae.parts.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StudentTLikelihood,
)
from pyro_vae.parts.masking import MaskedEncoder, MaskedLikelihood
from pyro_vae.parts.networks import MLP, ConvDecoder, ConvEncoder
from pyro_vae.parts.priors import (
    CategoricalPrior,
    FlowPrior,
    LaplacePrior,
    LogisticPrior,
    MixturePrior,
    NormalPrior,
    StudentTPrior,
    VampPrior,
)
from pyro_vae.runs import load_vae, save_vae
from pyro_vae.svi import CompiledSVI
from pyro_vae.training import fit
from pyro_vae.vae import VAE

__version__ = "0.2.0"

__all__ = [
    "MLP",
    "VAE",
    "Amortized",
    "AmortizedGuide",
    "BernoulliLikelihood",
    "CategoricalGuide",
    "CategoricalPrior",
    "CompiledSVI",
    "Config",
    "ContinuousBernoulliLikelihood",
    "ConvDecoder",
    "ConvEncoder",
    "DataConfig",
    "DiscretizedLogisticLikelihood",
    "EStep",
    "FitConfig",
    "FlowGuide",
    "FlowPrior",
    "FullNormalGuide",
    "GaussianLikelihood",
    "LaplaceGuide",
    "LaplacePrior",
    "Likelihood",
    "LocalInference",
    "LogisticPrior",
    "MaskedEncoder",
    "MaskedLikelihood",
    "MixtureGuide",
    "MixturePrior",
    "NegativeBinomialLikelihood",
    "NormalGuide",
    "NormalPrior",
    "ObjectiveConfig",
    "PoissonLikelihood",
    "Prior",
    "SemiAmortized",
    "StudentTLikelihood",
    "StudentTPrior",
    "TrainingConfig",
    "VAEConfig",
    "VampPrior",
    "__version__",
    "build",
    "fit",
    "load_vae",
    "make_objective",
    "save_vae",
]

# As methods, too. What knows of files lies above vae.py, which cannot name it.
setattr(VAE, "save", save_vae)  # noqa: B010
setattr(VAE, "load", staticmethod(load_vae))  # noqa: B010

_RENAMED = {  # in version 0.2
    "Bernoulli": "BernoulliLikelihood",
    "ContinuousBernoulli": "ContinuousBernoulliLikelihood",
    "DiagonalLaplace": "LaplaceGuide",
    "DiagonalNormal": "NormalGuide",
    "FullNormal": "FullNormalGuide",
    "Gaussian": "GaussianLikelihood",
    "Laplace": "LaplacePrior",
    "Logistic": "LogisticPrior",
    "StandardNormal": "NormalPrior",
    "StudentT": "StudentTPrior",
}


def __getattr__(name: str) -> Any:
    """Returns what a name of version 0.1 stands for, and warns of it."""
    if name not in _RENAMED:
        raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
    new = _RENAMED[name]
    warnings.warn(
        f"pyro_vae.{name} is now pyro_vae.{new}; the old name goes with "
        "version 0.3",
        DeprecationWarning,
        stacklevel=2,
    )
    return globals()[new]
