"""`pyro-vae fit`, in a clone of the repository."""

import _start  # noqa: F401  # first

from pyro_vae.cli import fit
from pyro_vae.cli.command import run

if __name__ == "__main__":
    run(fit.main, fit.Flags, fit.__doc__)
