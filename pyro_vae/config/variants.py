"""One row for each prior, guide, likelihood, network and the like.

A row says what makes the variant, which choices it uses, and what it goes
with. Everything else follows from the rows: the flags' names, what `auto`
means, and every refusal of choices that do not fit together.
"""

from collections.abc import Mapping
from typing import Any

from pyro_vae import objectives
from pyro_vae.config.bounds import Bound, at_least, exactly
from pyro_vae.config.variant import Table, Variant
from pyro_vae.inference import Amortized, EStep, LocalInference, SemiAmortized
from pyro_vae.parts import (
    gradient_estimators,
    guides,
    likelihoods,
    priors,
)

SCORE_FUNCTIONS = ("score-function", "score-function-baseline")
CONTINUOUS: Mapping[str, tuple[str, ...]] = {
    "guide": ("normal", "laplace", "full", "flow"),
    "gradient": ("pathwise", *SCORE_FUNCTIONS),
}
SCALE = ("prior_scale", "learn_prior_scale")
COMPONENTS = ("num_components", "prior_weights")
COUPLINGS = ("num_couplings", "coupling_units")
TWO_DIMENSIONS = {"latent_dim": at_least(2)}  # a half moves the other

# make(config, guide)
PRIORS: Table = {
    "normal": Variant(
        lambda c, guide: priors.NormalPrior(c.latent_dim),
        goes_with=CONTINUOUS,
    ),
    "laplace": Variant(
        lambda c, guide: priors.LaplacePrior(
            c.latent_dim, c.prior_scale, c.learn_prior_scale
        ),
        uses=SCALE,
        goes_with=CONTINUOUS,
    ),
    "student-t": Variant(
        lambda c, guide: priors.StudentTPrior(
            c.latent_dim, c.prior_df, c.prior_scale, c.learn_prior_scale
        ),
        uses=(*SCALE, "prior_df"),
        goes_with=CONTINUOUS,
    ),
    "logistic": Variant(
        lambda c, guide: priors.LogisticPrior(
            c.latent_dim, c.prior_scale, c.learn_prior_scale
        ),
        uses=SCALE,
        goes_with=CONTINUOUS,
    ),
    # Both discrete priors start with a wide noise, to part the states slowly.
    "categorical": Variant(
        lambda c, guide: priors.CategoricalPrior(
            c.num_components, c.num_variables, c.prior_weights
        ),
        uses=(*COMPONENTS, "num_variables"),
        goes_with={
            "guide": ("categorical",),
            "gradient": ("enumerated", *SCORE_FUNCTIONS, "gumbel-softmax"),
        },
        first_noise_scale=1.0,
    ),
    "mixture": Variant(
        lambda c, guide: priors.MixturePrior(
            c.num_components, c.latent_dim, c.prior_weights
        ),
        uses=(*COMPONENTS, "labeled", "label_weight"),
        goes_with={
            "guide": ("mixture",),
            "gradient": ("enumerated", *SCORE_FUNCTIONS),
        },
        first_noise_scale=2.0,
    ),
    "summed-mixture": Variant(
        lambda c, guide: priors.MixturePrior(
            c.num_components, c.latent_dim, c.prior_weights, is_summed=True
        ),
        uses=COMPONENTS,
        goes_with=CONTINUOUS,
    ),
    # Its components come from the encoder, which local inference leaves alone.
    "vamp": Variant(
        lambda c, guide: priors.VampPrior(
            guide, c.num_components, guide.encoder.in_features, c.prior_weights
        ),
        uses=COMPONENTS,
        goes_with={**CONTINUOUS, "inference": ("amortized", "semi-amortized")},
    ),
    "flow": Variant(
        lambda c, guide: priors.FlowPrior(
            c.latent_dim, c.num_couplings, c.coupling_units
        ),
        uses=COUPLINGS,
        goes_with=CONTINUOUS,
        bounds=TWO_DIMENSIONS,
    ),
}
# make(config, make_encoder)
GUIDES: Table = {
    "normal": Variant(
        lambda c, encoder: guides.NormalGuide(encoder(2 * c.latent_dim))
    ),
    "laplace": Variant(
        lambda c, encoder: guides.LaplaceGuide(encoder(2 * c.latent_dim))
    ),
    "full": Variant(
        lambda c, encoder: guides.FullNormalGuide(
            encoder(guides.FullNormalGuide.count_parameters(c.latent_dim)),
            c.latent_dim,
        )
    ),
    "flow": Variant(
        lambda c, encoder: guides.FlowGuide(
            encoder(2 * c.latent_dim + c.coupling_units),
            c.latent_dim,
            c.coupling_units,
            c.num_couplings,
            c.coupling_units,
        ),
        uses=COUPLINGS,
        bounds=TWO_DIMENSIONS,
    ),
    "categorical": Variant(
        lambda c, encoder: guides.CategoricalGuide(
            encoder(c.num_variables * c.num_components), c.num_components
        )
    ),
    "mixture": Variant(
        lambda c, encoder: guides.MixtureGuide(
            encoder(c.num_components * (1 + 2 * c.latent_dim)),
            c.num_components,
        )
    ),
}
# make(config, make_encoder)
BASELINES: Table = {
    "decaying": Variant(
        lambda c, encoder: gradient_estimators.DecayingBaseline()
    ),
    "learned": Variant(
        lambda c, encoder: gradient_estimators.LearnedBaseline(encoder(1))
    ),
}
PLAIN = {"objective": ("elbo",), "inference": ("amortized",)}
NO_FREE_BITS = {"free_bits": exactly(0)}
# make(config, make_encoder)
GRADIENTS: Table = {
    "pathwise": Variant(lambda c, encoder: gradient_estimators.Pathwise()),
    "enumerated": Variant(
        lambda c, encoder: gradient_estimators.Enumerated(),
        goes_with={"objective": ("elbo",)},
        bounds=NO_FREE_BITS,
    ),
    "score-function": Variant(
        lambda c, encoder: gradient_estimators.ScoreFunction(),
        goes_with=PLAIN,
        bounds=NO_FREE_BITS,
    ),
    "score-function-baseline": Variant(
        lambda c, encoder: gradient_estimators.ScoreFunction(
            BASELINES[c.baseline].make(c, encoder)
        ),
        uses=("baseline",),
        goes_with=PLAIN,
        bounds=NO_FREE_BITS,
    ),
    "gumbel-softmax": Variant(
        lambda c, encoder: gradient_estimators.GumbelSoftmax(
            c.temperature, c.straight_through
        ),
        uses=("temperature", "straight_through"),
        goes_with=PLAIN,
        bounds=NO_FREE_BITS,
    ),
}
# E-steps climb the ELBO itself, and Theta follows them.
ELBO_ALONE: Mapping[str, Bound] = {
    "beta": exactly(1),
    "warmup": exactly(0),
    "free_bits": exactly(0),
}
# make(config)
INFERENCES: Table = {
    "amortized": Variant(lambda c: Amortized()),
    "local": Variant(
        lambda c: LocalInference(EStep(1, c.e_learning_rate), float(c.e_steps)),
        uses=("e_steps", "e_learning_rate"),
        goes_with={"objective": ("elbo",)},
        bounds=ELBO_ALONE,
    ),
    "semi-amortized": Variant(
        lambda c: SemiAmortized(EStep(1, c.e_learning_rate), float(c.e_steps)),
        uses=("e_steps", "e_learning_rate"),
        goes_with={"objective": ("elbo",)},
        bounds=ELBO_ALONE,
    ),
}
NOISE = ("noise", "noise_scale")
# make(config, decoder)
LIKELIHOODS: Table = {
    "gaussian": Variant(
        lambda c, decoder: likelihoods.GaussianLikelihood(
            decoder, c.noise, first_noise_scale(c)
        ),
        uses=NOISE,
    ),
    "student-t": Variant(
        lambda c, decoder: likelihoods.StudentTLikelihood(
            decoder, c.noise, first_noise_scale(c)
        ),
        uses=NOISE,
    ),
    "bernoulli": Variant(
        lambda c, decoder: likelihoods.BernoulliLikelihood(decoder),
        uses=("binarize",),
    ),
    "continuous-bernoulli": Variant(
        lambda c, decoder: likelihoods.ContinuousBernoulliLikelihood(decoder)
    ),
    "discretized-logistic": Variant(
        lambda c, decoder: likelihoods.DiscretizedLogisticLikelihood(
            decoder, c.noise, first_noise_scale(c)
        ),
        uses=NOISE,
    ),
    "poisson": Variant(
        lambda c, decoder: likelihoods.PoissonLikelihood(decoder, c.library),
        uses=("library",),
    ),
    "negative-binomial": Variant(
        lambda c, decoder: likelihoods.NegativeBinomialLikelihood(
            decoder, c.library
        ),
        uses=("library",),
    ),
}
# At 1 the Renyi bound is the ELBO; near it float32 has no digits left.
NEAR_ONE = 1e-3
NOT_ONE = {
    "alpha": Bound(
        f"another number than 1, by at least {NEAR_ONE}",
        lambda alpha: abs(alpha - 1) >= NEAR_ONE,
    )
}
# The rows of these stand in pyro_vae/objectives/make.py.
OBJECTIVES: Table = {
    name: Variant(
        objective.bound,
        uses=("alpha",) if objective.uses_alpha else (),
        bounds={
            **({} if objective.dimension_kl else NO_FREE_BITS),
            **(NOT_ONE if objective.uses_alpha else {}),
        },
    )
    for name, objective in objectives.OBJECTIVES.items()
}


def first_noise_scale(config: Any) -> float:
    """Returns the (initial) scale of a VAEConfig's noise, in units of x."""
    if config.noise_scale is not None:
        return config.noise_scale
    if config.noise == "fixed":
        return 0.5
    return PRIORS[config.prior].first_noise_scale
