"""build: the VAE that a configuration describes, part by part."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from pyro_vae import gradients, guides, likelihoods, networks, priors
from pyro_vae.config import FITTING_GRADIENTS, FITTING_GUIDES, Config
from pyro_vae.inference import make_inference
from pyro_vae.vae import VAE

MakeEncoder = Callable[[int], nn.Module]  # of so many output features
ImageShape = tuple[int, ...]

PRIORS: dict[str, Callable[[Config, nn.Module], nn.Module]] = {
    "normal": lambda c, guide: priors.StandardNormal(c.latent_dim),
    "laplace": lambda c, guide: priors.Laplace(
        c.latent_dim, c.prior_scale, c.learn_prior_scale
    ),
    "student-t": lambda c, guide: priors.StudentT(
        c.latent_dim, c.prior_df, c.prior_scale, c.learn_prior_scale
    ),
    "logistic": lambda c, guide: priors.Logistic(
        c.latent_dim, c.prior_scale, c.learn_prior_scale
    ),
    "categorical": lambda c, guide: priors.CategoricalPrior(
        c.num_components, c.num_variables, c.prior_weights
    ),
    "mixture": lambda c, guide: priors.MixturePrior(
        c.num_components, c.latent_dim, c.prior_weights
    ),
    "summed-mixture": lambda c, guide: priors.MixturePrior(
        c.num_components, c.latent_dim, c.prior_weights, is_summed=True
    ),
    "vamp": lambda c, guide: priors.VampPrior(
        guide, c.num_components, guide.encoder.in_features, c.prior_weights
    ),
    "flow": lambda c, guide: priors.FlowPrior(
        c.latent_dim, c.num_couplings, c.coupling_units
    ),
}
GUIDES: dict[str, Callable[[Config, MakeEncoder], nn.Module]] = {
    "normal": lambda c, encoder: guides.DiagonalNormal(
        encoder(2 * c.latent_dim)
    ),
    "laplace": lambda c, encoder: guides.DiagonalLaplace(
        encoder(2 * c.latent_dim)
    ),
    "full": lambda c, encoder: guides.FullNormal(
        encoder(guides.FullNormal.num_features(c.latent_dim)), c.latent_dim
    ),
    "flow": lambda c, encoder: guides.FlowGuide(
        encoder(2 * c.latent_dim + c.coupling_units),
        c.latent_dim,
        c.coupling_units,
        c.num_couplings,
        c.coupling_units,
    ),
    "categorical": lambda c, encoder: guides.CategoricalGuide(
        encoder(c.num_variables * c.num_components), c.num_components
    ),
    "mixture": lambda c, encoder: guides.MixtureGuide(
        encoder(c.num_components * (1 + 2 * c.latent_dim)), c.num_components
    ),
}
BASELINES: dict[str, Callable[[MakeEncoder], nn.Module]] = {
    "decaying": lambda encoder: gradients.DecayingBaseline(),
    "learned": lambda encoder: gradients.LearnedBaseline(encoder(1)),
}
GRADIENTS: dict[str, Callable[[Config, MakeEncoder], nn.Module]] = {
    "pathwise": lambda c, encoder: gradients.Pathwise(),
    "enumerated": lambda c, encoder: gradients.Enumerated(),
    "score-function": lambda c, encoder: gradients.ScoreFunction(),
    "score-function-baseline": lambda c, encoder: gradients.ScoreFunction(
        BASELINES[c.baseline](encoder)
    ),
    "gumbel-softmax": lambda c, encoder: gradients.GumbelSoftmax(
        c.temperature, c.straight_through
    ),
}
LIKELIHOODS: dict[str, Callable[[Config, nn.Module], nn.Module]] = {
    "gaussian": lambda c, decoder: likelihoods.Gaussian(
        decoder, c.noise, c.choose_noise_scale()
    ),
    "bernoulli": lambda c, decoder: likelihoods.Bernoulli(decoder),
    "continuous-bernoulli": lambda c, decoder: likelihoods.ContinuousBernoulli(
        decoder
    ),
}
# Of the decoder, whose output is the mean image, or logits.
OUTPUT_ACTIVATIONS = {"gaussian": "sigmoid"}
ENCODERS: dict[str, Callable[[Config, ImageShape, int], nn.Module]] = {
    "mlp": lambda c, shape, out_features: networks.MLP(
        math.prod(shape),
        out_features,
        c.hidden,
        c.activation,
        init_std=c.init_std,
    ),
    "conv": lambda c, shape, out_features: networks.ConvEncoder(
        shape, out_features, c.channels, c.hidden, c.activation, c.init_std
    ),
}
DECODERS: dict[str, Callable[[Config, int, ImageShape], nn.Module]] = {
    "mlp": lambda c, in_features, shape: networks.MLP(
        in_features,
        math.prod(shape),
        c.hidden[::-1],
        c.activation,
        OUTPUT_ACTIVATIONS.get(c.likelihood),
        c.init_std,
    ),
    "conv": lambda c, in_features, shape: networks.ConvDecoder(
        in_features,
        shape,
        c.channels[::-1],
        c.hidden[::-1],
        c.activation,
        OUTPUT_ACTIVATIONS.get(c.likelihood),
        c.init_std,
    ),
}


def build(
    config: Config,
    data_dim: int = 784,
    image_shape: Sequence[int] | None = None,
) -> VAE:
    """Makes the VAE that a configuration describes, with fresh weights.

    Args:
        config: The choices.
        data_dim: D, the number of pixels of an image.
        image_shape: (height, width), for convolutions; by default square.

    Returns:
        A VAE, on the CPU, its weights drawn from torch's global generator.

    Raises:
        ValueError: If a choice is not valid, or not for such images.
    """
    guide, gradient = (
        fitting[config.prior][0] if choice == "auto" else choice
        for choice, fitting in (
            (config.guide, FITTING_GUIDES),
            (config.gradient, FITTING_GRADIENTS),
        )
    )
    shape = _image_shape(config, data_dim, image_shape)
    make_encoder = partial(ENCODERS[config.network], config, shape)
    make_decoder = partial(DECODERS[config.network], config)
    q = GUIDES[guide](config, make_encoder)
    prior = PRIORS[config.prior](config, q)
    decoder = make_decoder(prior().event_shape[0], shape)
    vae = VAE(
        prior,
        LIKELIHOODS[config.likelihood](config, decoder),
        q,
        GRADIENTS[gradient](config, make_encoder),
    )
    make_inference(
        config.inference, vae, float(config.e_steps), config.e_learning_rate
    )
    return vae.describe(config, data_dim, image_shape)


def _image_shape(
    config: Config, data_dim: int, image_shape: Sequence[int] | None
) -> ImageShape:
    """The image's shape, or any of D pixels where the network asks no more."""
    if config.network == "mlp":
        return (data_dim,)
    side = math.isqrt(data_dim)
    shape = (side, side) if image_shape is None else tuple(image_shape)
    if math.prod(shape) != data_dim:
        raise ValueError(
            f"an image has {data_dim} pixels and the shape {image_shape}; "
            "expected a shape of as many, for --network conv (by default a "
            "square's)"
        )
    return shape
