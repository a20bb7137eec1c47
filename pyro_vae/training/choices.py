"""What a configuration's choices come to here: device, engine, images."""

import pyro
import torch
from torch import Tensor

from pyro_vae.config import Config
from pyro_vae.data import VALIDATION_SEED, Dataset, draw_binary, draw_once
from pyro_vae.objectives import choose_objective
from pyro_vae.svi import can_compile
from pyro_vae.vae import VAE

COMPILE_FROM = 3000  # steps


def resolve_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is cuda where there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device is {name!r}, which torch cannot use here; expected "
            f"auto, cpu or cuda ({str(error).splitlines()[0]})"
        ) from None
    return device


def resolve_engine(config: Config, vae: VAE, num_steps: int) -> str:
    """Returns the engine that a run is to step with.

    `auto` compiles from `COMPILE_FROM` steps on, where the loss can be.

    Raises:
        ValueError: If the objective cannot take the VAE, or the engine it.
    """
    objective = choose_objective(config, vae)  # refuses what cannot be
    if config.engine == "compiled" and not can_compile(objective):
        raise ValueError(
            f"--engine is 'compiled'; expected auto or eager with the "
            f"gradient {type(vae.guide.gradient).__name__} and its baseline, "
            "whose loss cannot be compiled"
        )
    if config.engine != "auto":
        return config.engine
    is_worth_it = is_long(num_steps) and can_compile(objective)
    return "compiled" if is_worth_it else "eager"


def is_long(num_steps: int) -> bool:
    """Whether a run earns a compilation back."""
    return num_steps >= COMPILE_FROM


def make_optimizer(config: Config, num_data: int) -> pyro.optim.PyroOptim:
    """Makes Adam for a loss that is the sum over `num_data` images."""
    options = {"lr": config.learning_rate}
    if config.adam_eps is not None:
        options["eps"] = config.adam_eps * num_data
    return pyro.optim.Adam(options)


def hold_out(data: Dataset, config: Config) -> tuple[Dataset, Tensor | None]:
    """Splits off the validation images, if the fit is to stop early."""
    if config.early_stopping is None:
        return data, None
    data, validation = data.hold_out(config.validation_fraction)
    if config.binarize != "none":  # the same ones in every epoch
        validation = draw_once(validation, VALIDATION_SEED)
    return data, validation


def training_images(data: Dataset, config: Config) -> Tensor:
    """Those of an epoch, which may draw them anew, from torch's generator."""
    is_dynamic = config.binarize == "dynamic"
    return draw_binary(data.train) if is_dynamic else data.train
