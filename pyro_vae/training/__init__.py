"""fit(): the training loop. It yields records; it prints and plots nothing."""

from pyro_vae.training.choices import (
    hold_out,
    make_optimizer,
    resolve_device,
    resolve_engine,
)
from pyro_vae.training.loop import fit
from pyro_vae.training.state import RESUMABLE

__all__ = [
    "RESUMABLE",
    "fit",
    "hold_out",
    "make_optimizer",
    "resolve_device",
    "resolve_engine",
]
