"""Every choice that makes a run, in four groups, each for its reader.

`build` reads a `VAEConfig`; `fit` reads a `FitConfig`, which is the choices of
the data, the objective and the training. A `Config` is all of them in one flat
list: `Config(prior="laplace", epochs=5)`.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pyro_vae.config.bounds import (
    COUNT,
    COUNT_FROM_1,
    DEGREES_OF_FREEDOM,
    FRACTION,
    MAX_LAYERS,
    NOT_NEGATIVE,
    ORDER,
    POSITIVE,
    SCALE_OF_DATA,
    SEED,
    SIDES,
    SIZE,
    SIZES,
    SIZES_FROM_1,
    STEPS,
    between,
    or_none,
)
from pyro_vae.config.choices import Choices
from pyro_vae.config.tables import (
    BaselineName,
    ConditionName,
    GradientName,
    GuideName,
    InferenceName,
    LikelihoodName,
    NetworkName,
    ObjectiveName,
    PriorName,
)


@dataclass(frozen=True)
class VAEConfig(Choices):
    """The choices that make a VAE: its prior, likelihood, guide and networks.

    Attributes:
        prior: p(z), the distribution of the latents. categorical: one-hot
            variables; mixture: a mixture of normals, with the component as a
            discrete latent of its own; summed-mixture: the same density,
            without that latent; vamp: a mixture of the guide's posteriors at
            learned images; flow: a normal pushed through learned couplings.
        prior_scale: Scale of a prior that has one (laplace, student-t,
            logistic), in units of z.
        learn_prior_scale: Learn that scale, one for each latent dimension,
            starting from prior_scale.
        prior_df: Degrees of freedom of the Student t prior; fewer make
            heavier tails.
        num_components: K, the states of a categorical variable, the components
            of a mixture, or the learned images of the vamp prior.
        num_variables: L, the number of independent categorical variables.
        prior_weights: The probabilities of a prior's states or components.
        guide: q(z | x), the family of the approximate posterior. full: a
            normal with a full covariance; flow: a normal pushed through
            couplings that depend on x. auto: normal, or the guide that a
            discrete prior needs.
        num_couplings: Affine couplings in a flow, of the prior or the guide.
        coupling_units: Units in the hidden layer of each coupling's network,
            and the size of the context that a flow guide's encoder computes
            from x.
        gradient: How the gradient gets through a draw of z. auto: pathwise for
            continuous latents, enumerated for discrete ones.
        baseline: What score-function-baseline subtracts from the ELBO: its
            decaying average, or a network's prediction.
        temperature: Temperature of the Gumbel-softmax.
        straight_through: Draw one-hot vectors in gumbel-softmax, and relax the
            gradient alone.
        likelihood: p(x | z). gaussian and continuous-bernoulli are for gray
            pixels; bernoulli is for binary pixels (see binarize), and is no
            likelihood of gray ones; discretized-logistic: a probability of
            8-bit pixels; student-t: for real data with outliers; poisson and
            negative-binomial: for counts.
        library: The library size of counts, the sum of a row. observed: the
            row's own, and the decoder gives proportions; learned: the decoder
            gives the library size, too.
        missing: Take NaN in the data as not observed: the likelihood is that
            of the observed values, and the encoder sees zeros in the place of
            the others, and which they are.
        inference: Where q's parameters come from. amortized: the encoder;
            local: each image's own, improved by E-steps; semi-amortized:
            E-steps that start from the encoder's proposal.
        e_steps: E-steps on a minibatch before each step on Theta; inf: until
            they have converged.
        e_learning_rate: Step size of the E-steps' Adam, in units of q's
            unconstrained parameters.
        noise: The noise around the decoder's output (gaussian, student-t,
            discretized-logistic): one learned scale, a scale that is not
            learned, or a learned scale for each pixel.
        noise_scale: (Initial) scale of the noise, in units of x; for gaussian
            it is a standard deviation. By default 0.5; with discrete latents a
            learned one starts at 1 (categorical) or 2 (mixture), since with a
            narrow noise the first states that fit anything take all images.
        latent_dim: P, the number of latent dimensions.
        condition: What the VAE is conditional on. labels: encoder and decoder
            take each image's label as a one-hot vector, the bounds are of
            log p(x | y), and p(z) does not depend on the label.
        network: The kind of encoder and decoder. conv: convolutions, of gray
            images, between the image and the hidden layers.
        channels: Channels of each of the encoder's convolutions, which halve
            the sides of the image; the decoder mirrors them.
        hidden: Units in each hidden layer of the encoder; the decoder mirrors
            it.
        activation: Activation of the hidden layers.
        init_std: Standard deviation of the initial weights; biases start at
            zero.
    """

    prior: PriorName = "normal"
    prior_scale: Annotated[float, POSITIVE] = 1.0
    learn_prior_scale: bool = False
    prior_df: Annotated[float, DEGREES_OF_FREEDOM] = 4.0
    num_components: Annotated[int, between(2, 100_000)] = 10
    num_variables: Annotated[int, between(1, MAX_LAYERS)] = 1
    prior_weights: Literal["uniform", "learned"] = "uniform"
    guide: GuideName = "auto"
    num_couplings: Annotated[int, between(1, MAX_LAYERS)] = 4
    coupling_units: Annotated[int, SIZE] = 64
    gradient: GradientName = "auto"
    baseline: BaselineName = "decaying"
    temperature: Annotated[float, POSITIVE] = 0.5
    straight_through: bool = False
    likelihood: LikelihoodName = "gaussian"
    library: Literal["observed", "learned"] = "observed"
    missing: bool = False
    inference: InferenceName = "amortized"
    e_steps: Annotated[int | Literal["inf"], STEPS] = 1
    e_learning_rate: Annotated[float, POSITIVE] = 0.1
    noise: Literal["shared", "fixed", "diagonal"] = "shared"
    noise_scale: Annotated[float | None, or_none(POSITIVE)] = None
    latent_dim: Annotated[int, SIZE] = 2
    condition: ConditionName = "none"
    network: NetworkName = "mlp"
    channels: Annotated[tuple[int, ...], SIZES_FROM_1] = (32, 64)
    hidden: Annotated[tuple[int, ...], SIZES] = (512,)
    activation: Literal[
        "relu", "tanh", "softplus", "elu", "gelu", "silu", "sigmoid"
    ] = "relu"
    init_std: Annotated[float, POSITIVE] = 0.1


@dataclass(frozen=True)
class DataConfig(Choices):
    """The choices of the data.

    Attributes:
        dataset: mnist, fashion-mnist, kmnist, digits (8 x 8 pixels, part of
            scikit-learn), or the path of a folder of images or of a file: .npy,
            .npz, .h5, .zarr, .h5ad, .csv, .parquet, or IDX. auto: mnist, or
            digits where mnist is neither on disk nor to be downloaded.
        limit: Use only the first LIMIT training images, and as many test
            images.
        binarize: Draw binary images, in which each pixel is white with a
            probability equal to its brightness. dynamic: the training images
            anew in each epoch; static: once. The test images are drawn once,
            the same for all runs.
        static_binarization: Read binary MNIST as Larochelle drew it once, from
            the folder or one of the files binarized_mnist_train.amat,
            ..._valid.amat and ..._test.amat (or .npy), in place of dataset.
        scale: Divide the numbers of a file by this. By default bytes by 255,
            and nothing else; columns: bring each column of a table from its
            own range to [0, 1].
        layout: Where the channels of images in a file are; auto: as the sizes
            tell.
        image_size: Height and width, or one side, that the images of a folder
            are cropped and resized to.
        grey: Make the images of a folder gray.
        label_column: Column of a table that holds the labels; by default the
            only one of text.
        test_fraction: Part of the images that becomes the test set, where a
            file has none; by default a fifth.
        labeled: Learn from this many labels of training images, as many of
            each class: the component of a mixture is the label, known where
            there is one and summed over elsewhere.
    """

    dataset: str = "auto"
    limit: Annotated[int | None, or_none(COUNT_FROM_1)] = None
    binarize: Literal["none", "dynamic", "static"] = "none"
    static_binarization: str | None = None
    scale: Annotated[
        float | Literal["columns"] | None, or_none(SCALE_OF_DATA)
    ] = None
    layout: Literal["auto", "channels-first", "channels-last"] = "auto"
    image_size: Annotated[tuple[int, ...] | None, or_none(SIDES)] = None
    grey: bool = False
    label_column: str | None = None
    test_fraction: Annotated[float | None, or_none(FRACTION)] = None
    labeled: Annotated[int | None, or_none(COUNT_FROM_1)] = None


@dataclass(frozen=True)
class ObjectiveConfig(Choices):
    """The choices of what is maximized. Bounds are in nats per image.

    Attributes:
        objective: What is maximized. analytic-kl: the ELBO, its KL in closed
            form; iwae: the importance-weighted bound; renyi: the Renyi bound;
            stl: the ELBO, its gradient without the score (sticking the
            landing); dreg: the importance-weighted bound, doubly
            reparameterized. Records always hold the ELBO.
        alpha: Order of the Renyi bound: at 0 it is iwae, towards 1 the ELBO.
        num_particles: Samples of z per image in the training objective.
        beta: Weight of the KL in the objective.
        warmup: Epochs over which that weight rises from 0, linearly in steps.
        free_bits: Nats of KL, as the mean over the minibatch, that each latent
            dimension has for free.
        label_weight: Weight of the labeled images' mean log q(y | x), in the
            objective of an image; see labeled.
    """

    objective: ObjectiveName = "elbo"
    alpha: Annotated[float, ORDER] = 0.5
    num_particles: Annotated[int, SIZE] = 1
    beta: Annotated[float, POSITIVE] = 1.0
    warmup: Annotated[int, COUNT] = 0
    free_bits: Annotated[float, NOT_NEGATIVE] = 0.0
    label_weight: Annotated[float, NOT_NEGATIVE] = 0.1


@dataclass(frozen=True)
class TrainingConfig(Choices):
    """The choices of how the training goes.

    Attributes:
        epochs: Passes over the training images. By default 20, and more where
            they are few: as many as make 2,500 steps, at most 1,000.
        batch_size: Images in a minibatch.
        learning_rate: Step size of Adam.
        schedule: The step size from epoch to epoch. cosine: half a wave down
            towards 0 over the run; exponential: down to a hundredth over the
            run; iwae-2015: as in Burda et al., 8 stages of 1, 3, ..., 2187
            epochs, down to a tenth.
        adam_eps: Epsilon of Adam, in units of the gradient of a mean over
            images. By default torch's 1e-8, in units of the gradient of the
            sum over the data set.
        gradient_clip: Shorten the gradient of all parameters together to this
            norm, that of the mean over images, in nats.
        early_stopping: Stop after this many epochs without a better validation
            ELBO, counted from the end of the warm-up; the best weights are
            kept beside the last.
        validation_fraction: Part of the training images that early stopping
            holds out.
        engine: Pyro's own SVI step, or the same step compiled. auto: compiled
            where the run is long enough to pay for the compilation.
        matmul_precision: Precision of large float32 matrix products while
            fitting. highest: float32; high: TF32 on CUDA; medium: bfloat16
            where the processor has it, which has 8 bits of precision instead
            of 24 and makes a step 1.2 to 1.6 times as fast.
        seed: Seed of the weights, the noise and the order of the images.
        device: Torch device: cpu, cuda, ... auto: cuda where there is one.
    """

    epochs: Annotated[int | None, or_none(COUNT)] = None
    batch_size: Annotated[int, between(1, 1_000_000)] = 128
    learning_rate: Annotated[float, POSITIVE] = 1e-3
    schedule: Literal["constant", "cosine", "exponential", "iwae-2015"] = (
        "constant"
    )
    adam_eps: Annotated[float | None, or_none(POSITIVE)] = None
    gradient_clip: Annotated[float | None, or_none(POSITIVE)] = None
    early_stopping: Annotated[int | None, or_none(COUNT_FROM_1)] = None
    validation_fraction: Annotated[float, FRACTION] = 0.1
    engine: Literal["auto", "compiled", "eager"] = "auto"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    seed: Annotated[int, SEED] = 0
    device: str = "auto"


@dataclass(frozen=True)
class FitConfig(TrainingConfig, ObjectiveConfig, DataConfig):
    """What `fit` reads: the choices of data, objective and training."""


@dataclass(frozen=True)
class Config(FitConfig, VAEConfig):
    """Every choice that makes a run. Bounds are in nats per image."""

    @classmethod
    def of(cls, *groups: Choices) -> "Config":
        """Joins groups of choices, such as a `VAEConfig` and a `FitConfig`."""
        return cls(
            **{
                field.name: getattr(group, field.name)
                for group in groups
                for field in fields(group)
            }
        )


def _document(config: type, groups: tuple[type, ...]) -> None:
    """Gives a class the explanations of the groups that it consists of."""
    attributes = "".join(
        (group.__doc__ or "").split("Attributes:\n")[1].rstrip() + "\n"
        for group in groups
    )
    config.__doc__ = f"{config.__doc__}\n\n    Attributes:\n{attributes}    "


_document(FitConfig, (DataConfig, ObjectiveConfig, TrainingConfig))
_document(Config, (VAEConfig, DataConfig, ObjectiveConfig, TrainingConfig))
