"""Every choice that makes a run, and the VAE that it describes."""

from pyro_vae.config.build import build, check_describes
from pyro_vae.config.choices import Choices, find_short_warmup, part_of
from pyro_vae.config.config import (
    Config,
    DataConfig,
    FitConfig,
    ObjectiveConfig,
    TrainingConfig,
    VAEConfig,
)
from pyro_vae.config.presets import PRESETS, make_preset
from pyro_vae.config.sizes import (
    check_memory,
    check_training_memory,
    estimate_memory,
)
from pyro_vae.config.tables import COUNTS

__all__ = [
    "COUNTS",
    "PRESETS",
    "Choices",
    "Config",
    "DataConfig",
    "FitConfig",
    "ObjectiveConfig",
    "TrainingConfig",
    "VAEConfig",
    "build",
    "check_describes",
    "check_memory",
    "check_training_memory",
    "estimate_memory",
    "find_short_warmup",
    "make_preset",
    "part_of",
]
