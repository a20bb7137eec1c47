"""Likelihoods p(x | z): modules whose `forward(z)` is a distribution.

Each maps latents `(..., P)` to a distribution of batch shape `(...)` and event
shape `(D,)`, and owns the decoder network, f(z, w) in the assignment.
"""

from pyro_vae.parts.likelihoods.bernoulli import BernoulliLikelihood
from pyro_vae.parts.likelihoods.continuous_bernoulli import (
    ContinuousBernoulliLikelihood,
    ExactContinuousBernoulli,
    log_normalizer,
)
from pyro_vae.parts.likelihoods.counts import CountLikelihood
from pyro_vae.parts.likelihoods.discretized_logistic import (
    DiscretizedLogisticLikelihood,
)
from pyro_vae.parts.likelihoods.gaussian import GaussianLikelihood
from pyro_vae.parts.likelihoods.negative_binomial import (
    NegativeBinomialLikelihood,
)
from pyro_vae.parts.likelihoods.noise import MIN_NOISE_SCALE, NOISES
from pyro_vae.parts.likelihoods.poisson import PoissonLikelihood
from pyro_vae.parts.likelihoods.student_t import StudentTLikelihood
from pyro_vae.parts.likelihoods.supports import (
    Levels,
    bits_per_dimension,
    check_data,
)

__all__ = [
    "MIN_NOISE_SCALE",
    "NOISES",
    "BernoulliLikelihood",
    "ContinuousBernoulliLikelihood",
    "CountLikelihood",
    "DiscretizedLogisticLikelihood",
    "ExactContinuousBernoulli",
    "GaussianLikelihood",
    "Levels",
    "NegativeBinomialLikelihood",
    "PoissonLikelihood",
    "StudentTLikelihood",
    "bits_per_dimension",
    "check_data",
    "log_normalizer",
]
