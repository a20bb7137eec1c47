"""`pyro-vae compare`, in a clone of the repository."""

import _start  # noqa: F401  # first

from pyro_vae.cli import compare
from pyro_vae.cli.command import run

if __name__ == "__main__":
    run(compare.main, compare.Flags, compare.__doc__)
