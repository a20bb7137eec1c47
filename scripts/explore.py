"""`pyro-vae explore`, in a clone of the repository."""

import _start  # noqa: F401  # first

from pyro_vae.cli import explore
from pyro_vae.cli.command import run

if __name__ == "__main__":
    run(explore.main, explore.Flags, explore.__doc__)
