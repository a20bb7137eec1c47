"""`pyro-vae evaluate`, in a clone of the repository."""

import _start  # noqa: F401  # first

from pyro_vae.cli import evaluate
from pyro_vae.cli.command import run

if __name__ == "__main__":
    run(evaluate.main, evaluate.Flags, evaluate.__doc__)
