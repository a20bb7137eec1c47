"""What a configuration's choices come to here: device, engine, optimizer."""

import math

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae.config import FitConfig
from pyro_vae.data import VALIDATION_SEED, Dataset, draw_binary, draw_once
from pyro_vae.svi import Shards, can_compile
from pyro_vae.training.objective import AnnealedObjective
from pyro_vae.vae import VAE

COMPILE_FROM = 3000  # steps
_BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)


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
    config: FitConfig, vae: VAE, objective: AnnealedObjective, num_steps: int
) -> str:
    """Returns the engine that a run steps with: `eager` or `compiled`.

    `auto` compiles from `COMPILE_FROM` steps on, if the loss can be compiled.

    Raises:
        ValueError: If the compiled engine was asked for and cannot take it.
    """
    is_possible = can_compile(objective.estimator)
    if config.engine == "compiled" and not is_possible:
        if config.free_bits:
            raise ValueError(
                "engine is 'compiled'; expected auto or eager with free_bits "
                "in several processes, whose floor is under a mean over all "
                "of them"
            )
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


def check_split(vae: VAE, shards: Shards) -> None:
    """Refuses what several processes cannot share, and starts them alike.

    Raises:
        ValueError: If a minibatch of this VAE cannot be split.
    """
    if shards.is_alone:
        return
    for name, module in vae.named_modules():
        if isinstance(module, _BATCH_NORMS):
            raise ValueError(
                f"{name} is {type(module).__name__}, whose statistics are of "
                f"a whole minibatch, and {shards.world_size} processes have a "
                "part of it each; expected none: use LayerNorm, or fit in one "
                "process"
            )
    if math.isinf(vae.inference.num_steps):
        raise ValueError(
            "e_steps is inf, which ends where a minibatch's mean ELBO has "
            f"converged, and {shards.world_size} processes have a part of it "
            "each; expected a number of steps, or one process"
        )
    vae.load_state_dict(shards.agree(vae.state_dict()))


def make_optimizer(config: FitConfig, num_data: int) -> PyroOptim:
    """Makes Adam for a loss that is the sum over `num_data` images."""
    options = {"lr": config.learning_rate}
    if config.adam_eps is not None:
        options["eps"] = config.adam_eps * num_data
    return PyroOptim(torch.optim.Adam, options)


def hold_out(data: Dataset, config: FitConfig) -> tuple[Dataset, Tensor | None]:
    """Splits the validation images off, if the fit is to stop early.

    Returns:
        The data set without them, and the validation images, or None.
    """
    if config.early_stopping is None:
        return data, None
    data, validation = data.hold_out(config.validation_fraction)
    if config.binarize != "none":  # the same images in every epoch
        validation = draw_once(validation, VALIDATION_SEED)
    return data, validation


def training_images(data: Dataset, config: FitConfig) -> Tensor:
    """Returns the images of an epoch, `(N, D)`.

    With dynamic binarization they are drawn from torch's generator.
    """
    is_dynamic = config.binarize == "dynamic"
    return draw_binary(data.train) if is_dynamic else data.train
