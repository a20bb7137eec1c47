"""fit(): the training loop. It yields records; it prints and plots nothing."""

from pyro_vae.training.ending import find_faults, find_rise
from pyro_vae.training.loop import Fit, fit
from pyro_vae.training.setup import (
    make_optimizer,
    resolve_device,
)
from pyro_vae.training.state import RESUMABLE
from pyro_vae.training.stopping import best_epoch, is_over

__all__ = [
    "RESUMABLE",
    "Fit",
    "best_epoch",
    "find_faults",
    "find_rise",
    "fit",
    "is_over",
    "make_optimizer",
    "resolve_device",
]
