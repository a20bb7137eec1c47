"""A run's folder: what lies in it, how it is written and read back."""

from pyro_vae.runs.files import FileError
from pyro_vae.runs.history import Record, read_history, write_history
from pyro_vae.runs.models import load_vae, save_vae

__all__ = [
    "FileError",
    "Record",
    "load_vae",
    "read_history",
    "save_vae",
    "write_history",
]
