"""`pyro-vae sweep`, in a clone of the repository."""

import _start  # noqa: F401  # first

from pyro_vae.cli import sweep
from pyro_vae.cli.command import run

if __name__ == "__main__":
    run(sweep.main, sweep.Flags, sweep.__doc__)
