"""Where q's parameters come from: an encoder, each image's own, or both.

Lambda_n, `(F,)` for each image, are the unconstrained parameters of the guide's
family. Amortized inference computes them with the encoder. An E-step is
gradient ascent on an image's own lambda with Theta held fixed, the E-step of
variational EM.
"""

from pyro_vae.inference.e_step import EStep, ImageParameters
from pyro_vae.inference.ways import (
    Amortized,
    Inference,
    LocalInference,
    SemiAmortized,
)

__all__ = [
    "Amortized",
    "EStep",
    "ImageParameters",
    "Inference",
    "LocalInference",
    "SemiAmortized",
]
