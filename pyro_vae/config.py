"""Config: every choice that makes a run, checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from operator import eq
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pyro_vae.distributions import check_num_states

# What goes with each prior; the first is what "auto" means.
CONTINUOUS = ("normal", "laplace", "full", "flow")
FITTING_GUIDES = {
    "normal": CONTINUOUS,
    "laplace": CONTINUOUS,
    "student-t": CONTINUOUS,
    "logistic": CONTINUOUS,
    "categorical": ("categorical",),
    "mixture": ("mixture",),
    "summed-mixture": CONTINUOUS,
    "vamp": CONTINUOUS,
    "flow": CONTINUOUS,
}
# Where a learned noise scale starts, wide, to part the states slowly.
ANNEALED_FROM = {"categorical": 1.0, "mixture": 2.0}
SCORE_FUNCTIONS = ("score-function", "score-function-baseline")
FITTING_GRADIENTS = {
    prior: ("pathwise", *SCORE_FUNCTIONS)
    for prior, fitting in FITTING_GUIDES.items()
    if fitting == CONTINUOUS
} | {
    "categorical": ("enumerated", *SCORE_FUNCTIONS, "gumbel-softmax"),
    "mixture": ("enumerated", *SCORE_FUNCTIONS),
}
PLAIN_ELBO = {"objective": "elbo", "beta": 1, "warmup": 0, "free_bits": 0}
SCALED = ("laplace", "student-t", "logistic")
OF_COMPONENTS = ("categorical", "mixture", "summed-mixture", "vamp")


@dataclass(frozen=True)
class Config:
    """Every choice that makes a run. Bounds are in nats per image."""

    prior: Literal[
        "normal",
        "laplace",
        "student-t",
        "logistic",
        "categorical",
        "mixture",
        "summed-mixture",
        "vamp",
        "flow",
    ] = "normal"
    """p(z), the distribution of the latents. categorical: one-hot variables;
    mixture: of normals, the component a discrete latent of its own;
    summed-mixture: the same density, without that latent; vamp: a mixture of
    the guide's posteriors at learned images; flow: a normal pushed through
    learned couplings."""
    prior_scale: float = 1.0
    """Scale of the Laplace, Student t or logistic prior, in units of z."""
    learn_prior_scale: bool = False
    """Learn that scale, one for each latent dimension, from there."""
    prior_df: float = 4.0
    """Degrees of freedom of the Student t prior; fewer make heavier tails."""
    num_components: int = 10
    """K, the states of a categorical variable, the components of a mixture, or
    the learned images of the vamp prior."""
    num_variables: int = 1
    """L, independent categorical variables."""
    prior_weights: Literal["uniform", "learned"] = "uniform"
    """The probabilities of a prior's states or components."""
    guide: Literal[
        "auto", "normal", "laplace", "full", "flow", "categorical", "mixture"
    ] = "auto"
    """q(z | x), the family of the approximate posterior. full: a normal with a
    full covariance; flow: a normal pushed through couplings that know x. auto:
    normal, or the one that a discrete prior needs."""
    num_couplings: int = 4
    """Affine couplings in a flow, of the prior or the guide."""
    coupling_units: int = 64
    """Units in the hidden layer of each coupling's network, and numbers that
    a flow guide's encoder tells the couplings of x."""
    gradient: Literal[
        "auto",
        "pathwise",
        "enumerated",
        "score-function",
        "score-function-baseline",
        "gumbel-softmax",
    ] = "auto"
    """How the gradient gets past a draw of z. auto: pathwise for continuous
    latents, enumerated for discrete ones."""
    baseline: Literal["decaying", "learned"] = "decaying"
    """What is taken off the ELBO in score-function-baseline: its decaying
    average, or a network's prediction."""
    temperature: float = 0.5
    """Of the Gumbel-softmax."""
    straight_through: bool = False
    """Draw one-hot vectors in gumbel-softmax, relaxing the gradient alone."""
    likelihood: Literal["gaussian", "bernoulli", "continuous-bernoulli"] = (
        "gaussian"
    )
    """p(x | z). gaussian and continuous-bernoulli: of grey pixels; bernoulli:
    of binary ones (--binarize), and no likelihood of grey ones."""
    binarize: Literal["none", "dynamic", "static"] = "none"
    """Draw binary images, each pixel white as often as it is bright. dynamic:
    the training images anew in each epoch; static: once. The test images are
    drawn once, the same for all runs."""
    inference: Literal["amortized", "local", "semi-amortized"] = "amortized"
    """Where q's parameters come from. amortized: the encoder; local: each
    image's own, improved by E-steps; semi-amortized: E-steps from where the
    encoder stands."""
    e_steps: int | Literal["inf"] = 1
    """E-steps on a minibatch before each step on Theta; inf: until they have
    converged."""
    e_learning_rate: float = 0.1
    """Step size of the E-steps' Adam, in units of q's unconstrained
    parameters."""
    noise: Literal["shared", "fixed", "diagonal"] = "shared"
    """Sigma of the Gaussian likelihood: one learned scale, a scale that is
    not learned, or a learned scale for each pixel."""
    noise_scale: float | None = None
    """(Initial) standard deviation of the noise, in units of x (0 to 1). By
    default 0.5; for discrete latents a learned one starts at 1 (categorical)
    or 2 (mixture), since with a narrow noise the first states to fit anything
    take all images."""
    latent_dim: int = 2
    """Number of latent dimensions."""
    network: Literal["mlp", "conv"] = "mlp"
    """Of encoder and decoder. conv: convolutions, of grey images, between the
    image and the hidden layers."""
    channels: tuple[int, ...] = (32, 64)
    """Of each of the encoder's convolutions, which halve the sides of the
    image; the decoder mirrors them."""
    hidden: tuple[int, ...] = (512,)
    """Units in each hidden layer of the encoder; the decoder mirrors it."""
    activation: Literal[
        "relu", "tanh", "softplus", "elu", "gelu", "silu", "sigmoid"
    ] = "relu"
    """Activation of the hidden layers."""
    init_std: float = 0.1
    """Standard deviation of the initial weights; biases start at zero."""
    dataset: str = "auto"
    """mnist, fashion-mnist, kmnist, digits (8 x 8, comes with scikit-learn),
    or the path of an .npy or .npz file. auto: mnist, or digits where mnist is
    neither on disk nor to be had."""
    limit: int | None = None
    """Use the first LIMIT training images, and as many test images, only."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a minibatch."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    schedule: Literal["constant", "cosine", "exponential", "iwae-2015"] = (
        "constant"
    )
    """The step size from epoch to epoch. cosine: half a wave down towards 0
    over the run; exponential: down to a hundredth over the run; iwae-2015: of
    Burda et al., 8 stages of 1, 3, ..., 2187 epochs, down to a tenth."""
    adam_eps: float | None = None
    """Epsilon of Adam, in units of the gradient of a mean over images. By
    default torch's 1e-8, in units of that of the sum over the data set."""
    gradient_clip: float | None = None
    """Shorten the gradient, all parameters together, to this norm: that of
    the mean over images, in nats."""
    objective: Literal[
        "elbo", "analytic-kl", "iwae", "renyi", "stl", "dreg"
    ] = "elbo"
    """What is maximised. analytic-kl: the ELBO, its KL in closed form; iwae:
    the importance-weighted bound; renyi: the Renyi bound; stl: the ELBO, its
    gradient without the score (sticking the landing); dreg: the importance-
    weighted bound, doubly reparameterised. Records hold the ELBO always."""
    alpha: float = 0.5
    """Order of the Renyi bound: 0 is iwae, towards 1 it is the ELBO."""
    num_particles: int = 1
    """Samples of z per image in the training objective."""
    beta: float = 1.0
    """Weight of the KL in the objective."""
    warmup: int = 0
    """Epochs over which that weight rises from 0, linearly in steps."""
    free_bits: float = 0.0
    """Nats of KL, the mean over the minibatch, that each latent dimension has
    for free."""
    early_stopping: int | None = None
    """Stop after so many epochs without a better validation ELBO, counted
    from the end of the warm-up; the best weights are kept beside the last."""
    validation_fraction: float = 0.1
    """Part of the training images that early stopping holds out."""
    engine: Literal["auto", "compiled", "eager"] = "auto"
    """Pyro's own SVI step, or the same step compiled. auto: compiled where
    the run is long enough to pay for the compilation."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Of large float32 matrix products while fitting. highest: float32; high:
    TF32 on CUDA; medium: bfloat16 where the processor has it, 8 bits of
    precision for 24 and a step 1.2 to 1.6 times as fast."""
    seed: int = 0
    """Seed of the weights, the noise and the order of the images."""
    device: str = "auto"
    """Torch device: cpu, cuda, ... auto: cuda where there is one."""

    def __post_init__(self):
        for name in ("hidden", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                names = get_args(hint)
                expected = f"one of {', '.join(names)}"
                self._check(name, expected, names.__contains__)
        for name, expected, holds in _CHECKS:
            self._check(name, expected, holds)
        self._check_combination()

    def _check_combination(self) -> None:
        """Refuses choices that are valid each, but not together."""
        for name, choices in (
            ("guide", FITTING_GUIDES[self.prior]),
            ("gradient", FITTING_GRADIENTS[self.prior]),
        ):
            expected = f"auto or one of {', '.join(choices)}"
            expected = f"{expected} with --prior {self.prior}"
            self._check(name, expected, ("auto", *choices).__contains__)
        self._check_objective()
        if "flow" in (self.prior, self.guide):
            expected = "at least 2 with a flow, of the prior or the guide"
            self._check("latent_dim", expected, lambda size: size > 1)
        if self.prior == "vamp":
            expected = "another with --prior vamp, whose components are made "
            expected += "by the encoder that local inference does not train"
            self._check("inference", expected, lambda name: name != "local")
        self._check_belonging()
        if (self.prior, self._gradient) == ("categorical", "enumerated"):
            check_num_states(self.num_components**self.num_variables)

    def _check_objective(self) -> None:
        """Refuses what the objective cannot take."""
        if self.objective == "renyi":
            self._check("alpha", "another number than 1", lambda a: a != 1)
        if self.free_bits:
            expected = "elbo or analytic-kl with --free-bits"
            self._check(
                "objective", expected, ("elbo", "analytic-kl").__contains__
            )
        if self.early_stopping is not None:
            expected = f"at most --epochs, {self.epochs}, with early stopping"
            self._check("warmup", expected, lambda n: n <= self.epochs)
        gradient = self._gradient
        if self.inference != "amortized":
            expected = f"amortized with the {gradient} gradient"
            exact = gradient in ("pathwise", "enumerated")
            self._check("inference", expected, lambda _: exact)
            # E-steps climb the ELBO itself, and Theta follows them.
            for name, plain in PLAIN_ELBO.items():
                expected = f"{plain} with --inference {self.inference}"
                self._check(name, expected, partial(eq, plain))
        if gradient != "pathwise":
            expected = f"with the {gradient} gradient"
            self._check("objective", f"elbo {expected}", lambda o: o == "elbo")
            self._check("free_bits", f"0 {expected}", lambda n: n == 0)

    def _check_belonging(self) -> None:
        """Refuses what would have no effect with the other choices."""
        default = {field.name: field.default for field in fields(self)}
        for names, what, holds in _BELONGING:
            if holds(self):
                continue
            for name in names:
                expected = (
                    f"{default[name]} (leave it out): it goes with {what}"
                )
                self._check(name, expected, partial(eq, default[name]))

    @property
    def _gradient(self) -> str:
        """That which is meant by auto."""
        fitting = FITTING_GRADIENTS[self.prior]
        return fitting[0] if self.gradient == "auto" else self.gradient

    def choose_noise_scale(self) -> float:
        """Returns the (initial) standard deviation of the Gaussian's noise."""
        if self.noise_scale is not None:
            return self.noise_scale
        is_learned = self.noise != "fixed"
        return ANNEALED_FROM.get(self.prior, 0.5) if is_learned else 0.5

    def _check(
        self, name: str, expected: str, holds: Callable[[Any], bool]
    ) -> None:
        value = getattr(self, name)
        if not holds(value):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is {value!r}; expected {expected}")

    @classmethod
    def from_dict(cls, choices: dict[str, Any]) -> "Config":
        """Makes a Config of what `dataclasses.asdict` or JSON gave.

        Raises:
            ValueError: If a key is not a choice, or a value not valid.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(choices) - known):
            raise ValueError(
                f"unknown choices {', '.join(unknown)}; expected some of "
                f"{', '.join(sorted(known))}"
            )
        return cls(**choices)


def _at_least(bound: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= bound


def _positive(value: Any) -> bool:  # and a float32, with room for squares
    return type(value) in (int, float) and 1e-18 <= value <= 1e18


def _none_or(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


_NATURAL = "a whole number of at least 1"
_NATURALS = "whole numbers of at least 1"
_POSITIVE = "a positive number, from 1e-18 to 1e18"
_CHECKS: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("prior_scale", _POSITIVE, _positive),
    (
        "prior_df",
        "a positive number up to 1000, from where on it is a normal",
        lambda df: _positive(df) and df <= 1000,
    ),
    ("noise_scale", _POSITIVE, _none_or(_positive)),
    ("num_components", "a whole number of at least 2", _at_least(2)),
    ("num_variables", _NATURAL, _at_least(1)),
    ("temperature", _POSITIVE, _positive),
    (
        "e_steps",
        "inf or a whole number of at least 1",
        lambda n: n == "inf" or _at_least(1)(n),
    ),
    ("e_learning_rate", _POSITIVE, _positive),
    ("latent_dim", _NATURAL, _at_least(1)),
    ("num_couplings", _NATURAL, _at_least(1)),
    ("coupling_units", _NATURAL, _at_least(1)),
    ("hidden", _NATURALS, lambda sizes: all(map(_at_least(1), sizes))),
    (
        "channels",
        f"one or more {_NATURALS}",
        lambda sizes: len(sizes) > 0 and all(map(_at_least(1), sizes)),
    ),
    ("init_std", _POSITIVE, _positive),
    ("limit", _NATURAL, _none_or(_at_least(1))),
    ("epochs", "a whole number of at least 0", _at_least(0)),
    ("batch_size", _NATURAL, _at_least(1)),
    ("learning_rate", _POSITIVE, _positive),
    ("adam_eps", _POSITIVE, _none_or(_positive)),
    ("gradient_clip", _POSITIVE, _none_or(_positive)),
    ("alpha", "a finite number", lambda alpha: abs(alpha) < math.inf),
    ("beta", _POSITIVE, _positive),
    ("warmup", "a whole number of at least 0", _at_least(0)),
    (
        "free_bits",
        "a number of at least 0",
        lambda nats: nats == 0 or _positive(nats),
    ),
    ("early_stopping", _NATURAL, _none_or(_at_least(1))),
    (
        "validation_fraction",
        "a number between 0 and 1",
        lambda part: _positive(part) and part < 1,
    ),
    ("num_particles", _NATURAL, _at_least(1)),
    (
        "seed",
        "a whole number from 0 to 2**31 - 1",
        lambda n: _at_least(0)(n) and n < 2**31,
    ),
]
# What has an effect with some values of other choices alone.
_BELONGING: list[tuple[tuple[str, ...], str, Callable[[Config], bool]]] = [
    (
        ("prior_scale", "learn_prior_scale"),
        "--prior laplace, student-t or logistic",
        lambda c: c.prior in SCALED,
    ),
    (("prior_df",), "--prior student-t", lambda c: c.prior == "student-t"),
    (
        ("num_components", "prior_weights"),
        "--prior categorical, mixture, summed-mixture or vamp",
        lambda c: c.prior in OF_COMPONENTS,
    ),
    (
        ("num_variables",),
        "--prior categorical",
        lambda c: c.prior == "categorical",
    ),
    (
        ("num_couplings", "coupling_units"),
        "--prior flow or --guide flow",
        lambda c: "flow" in (c.prior, c.guide),
    ),
    (
        ("baseline",),
        "--gradient score-function-baseline",
        lambda c: c.gradient == "score-function-baseline",
    ),
    (
        ("temperature", "straight_through"),
        "--gradient gumbel-softmax",
        lambda c: c.gradient == "gumbel-softmax",
    ),
    (
        ("binarize",),
        "--likelihood bernoulli: the others are of grey pixels",
        lambda c: c.likelihood == "bernoulli",
    ),
    (
        ("noise", "noise_scale"),
        "--likelihood gaussian",
        lambda c: c.likelihood == "gaussian",
    ),
    (
        ("e_steps", "e_learning_rate"),
        "--inference local or semi-amortized",
        lambda c: c.inference != "amortized",
    ),
    (("channels",), "--network conv", lambda c: c.network == "conv"),
    (("alpha",), "--objective renyi", lambda c: c.objective == "renyi"),
    (
        ("validation_fraction",),
        "--early-stopping",
        lambda c: c.early_stopping is not None,
    ),
]
