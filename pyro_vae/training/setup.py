"""What a configuration's choices come to here: device, engine, optimizer."""

import math
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.config import FitConfig
from pyro_vae.data import (
    VALIDATION_SEED,
    Dataset,
    Options,
    Rows,
    draw_binary,
    draw_once,
    to_dataset,
)
from pyro_vae.data.reading import Values
from pyro_vae.data.rows import count_few, spread
from pyro_vae.evaluation import evaluation_mode
from pyro_vae.parts.contracts import AmortizedGuide, Likelihood
from pyro_vae.parts.likelihoods import check_data
from pyro_vae.svi import Shards, can_compile
from pyro_vae.training.objective import AnnealedObjective
from pyro_vae.vae import VAE

COMPILE_FROM = 3000  # steps

Labeled = tuple[Tensor, Tensor | None]  # images and their labels, if any


def resolve_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is cuda where there is one.

    Raises:
        ValueError: If there is no such device here, or it cannot hold a number
            and return it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # the device meta returns none
    except Exception as error:  # every backend raises its own kind
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"device is {name!r}, which torch cannot use here; expected "
            f"auto, cpu or cuda ({reason or type(error).__name__})"
        ) from None
    return device


def resolve_engine(
    config: FitConfig,
    vae: VAE,
    objective: AnnealedObjective,
    num_steps: int,
) -> str:
    """Returns the engine that a run steps with: `eager` or `compiled`.

    `auto` compiles from `COMPILE_FROM` steps on, if the loss can be compiled.

    Raises:
        ValueError: If the compiled engine was asked for and cannot take it.
    """
    is_possible = can_compile(objective.estimator)
    if config.engine == "compiled" and not is_possible:
        raise ValueError(
            f"engine is 'compiled'; expected auto or eager with the gradient "
            f"{type(vae.guide.gradient).__name__} and its baseline, whose loss "
            "cannot be compiled"
        )
    if config.engine != "auto":
        return config.engine
    return "compiled" if is_long(num_steps) and is_possible else "eager"


def is_long(num_steps: int) -> bool:
    """Returns whether a run has enough steps to pay for a compilation."""
    return num_steps >= COMPILE_FROM


def check_split(vae: VAE, config: FitConfig, shards: Shards) -> None:
    """Refuses what several processes cannot share, and starts them alike.

    Raises:
        ValueError: If a minibatch of this VAE cannot be split.
    """
    if shards.is_alone:
        return
    count = shards.world_size
    if config.free_bits:
        raise ValueError(
            f"free_bits is {config.free_bits}, a floor under a minibatch's "
            f"mean KL, and {count} processes have a part of it each; expected "
            "0, or one process"
        )
    if getattr(vae.inference, "num_steps", 1) == math.inf:
        raise ValueError(
            "e_steps is inf: they go on as long as a minibatch's mean ELBO "
            f"rises, and {count} processes have a part of it each; "
            "expected a number of steps, or one process"
        )
    for name, module in vae.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{name} is {type(module).__name__}, whose statistics are of "
                f"a whole minibatch, and {count} processes have a part of it "
                "each; expected LayerNorm, or one process"
            )
    vae.load_state_dict(shards.agree(vae.state_dict()))


def make_optimizer(config: FitConfig, num_data: int) -> PyroOptim:
    """Makes Adam for a loss that is the sum over `num_data` images."""
    options = {"lr": config.learning_rate}
    if config.adam_eps is not None:
        options["eps"] = config.adam_eps * num_data
    return PyroOptim(torch.optim.Adam, options)


def read_data(vae: VAE, data: Any, config: FitConfig) -> Dataset:
    """Returns the data of a fit as a data set, in a range that suits the VAE.

    Raises:
        DataError: If they cannot be read in any order, or as images.
    """
    options = Options(
        values=find_values(vae),
        scale=config.scale,
        layout=config.layout,
        test_fraction=config.test_fraction,
        missing=getattr(vae.likelihood, "takes_missing", False),
    )
    return to_dataset(data, options)


def find_values(vae: VAE) -> Values:
    """Returns what the values of x are to be for a VAE's likelihood."""
    support = getattr(vae.likelihood, "support", constraints.real)
    if support is constraints.nonnegative_integer:
        return "counts"
    return "real" if support is constraints.real else "unit"


def hold_out(
    data: Dataset, config: FitConfig
) -> tuple[Dataset, Labeled | None]:
    """Splits the validation images off, if the fit is to stop early.

    Returns:
        The data set without them, and the validation images with their
        labels, or None.
    """
    if config.early_stopping is None:
        return data, None
    labels = data.held_out_labels(config.validation_fraction)
    data, validation = data.hold_out(config.validation_fraction)
    if config.binarize != "none":  # the same images in every epoch
        validation = draw_once(validation, VALIDATION_SEED)
    return data, (validation, labels)


def check_labels(vae: VAE, data: Dataset) -> None:
    """Refuses data whose labels a conditional VAE cannot take.

    Raises:
        ValueError: If the VAE has labels, and the data have none, or others.
    """
    if not vae.num_labels:
        return
    for kind in ("train", "test"):
        labels = getattr(data, f"{kind}_labels")
        if labels is None:
            raise ValueError(
                f"{data.name} has no {kind}_labels, and the VAE is conditional "
                "on labels; expected a label for each image: leave "
                "condition=labels out"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"{kind}_labels of {data.name} are of type {labels.dtype}; "
                "expected integers"
            )
        low, high = labels.aminmax() if len(labels) else (0, 0)
        if low < 0 or high >= vae.num_labels:
            raise ValueError(
                f"{kind}_labels of {data.name} go from {low} to {high}; "
                f"expected 0 to {vae.num_labels - 1}, as the VAE has "
                f"{vae.num_labels}: build it with num_labels={int(high) + 1}"
            )


def start_likelihood(
    vae: VAE, data: Dataset, validation: Tensor | None
) -> None:
    """Refuses data that the VAE does not take, and shows the likelihood them.

    Raises:
        ValueError: If images are outside the support of the likelihood, or
            have missing values that the encoder does not take.
    """
    likelihood = vae.likelihood
    for what, images in (
        ("train", data.train),
        ("test", data.test),
        ("validation", validation),
    ):
        if images is not None:
            check_data(likelihood, spread(images, count_few(images)), what)
    some = spread(data.train, count_few(data.train))
    _check_encoder(vae, some[some.isnan().any(1)][:1])
    if isinstance(likelihood, Likelihood):
        likelihood.start(some)


@torch.no_grad()
def _check_encoder(vae: VAE, x: Tensor) -> None:
    """Refuses an encoder that makes NaN of an image with missing values.

    Args:
        vae: The VAE.
        x: The image, `(1, D)`; or none, `(0, D)`.
    """
    if not (len(x) and isinstance(vae.guide.distribution, AmortizedGuide)):
        return
    labels = torch.zeros(1, dtype=torch.long, device=x.device)
    with evaluation_mode(vae):
        found = vae.guide.encode(x, labels)
    if found.isnan().any():
        kind = type(vae.guide.encoder).__name__
        raise ValueError(
            f"train has NaN, of which the encoder {kind} "
            "makes NaN; expected one that takes missing values, such as "
            "MaskedEncoder(network, data_dim)"
        )


def training_images(data: Dataset, config: FitConfig) -> Tensor | Rows:
    """Returns the images of an epoch, `(N, D)`.

    With dynamic binarization they are drawn from torch's generator: at once,
    or where they are not in memory, a minibatch at a time.
    """
    if config.binarize != "dynamic":
        return data.train
    if isinstance(data.train, Rows):
        return data.train.then(draw_binary)
    return draw_binary(data.train)
