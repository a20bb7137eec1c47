"""The console command `pyro-vae`, and `python -m pyro_vae`."""

import argparse
import sys

import pyro_vae.cli.start as start  # first
from pyro_vae import __version__
from pyro_vae.cli import compare, evaluate, explore, fit, sweep
from pyro_vae.cli.command import run
from pyro_vae.cli.streams import tolerate_closed_streams

start.give_back()

COMMANDS = {
    "fit": fit,
    "evaluate": evaluate,
    "compare": compare,
    "explore": explore,
    "sweep": sweep,
}


def main() -> None:
    """Runs the command that the first word names."""
    tolerate_closed_streams()
    about = "".join(
        f"\n  {name:<10}{(module.__doc__ or '').partition(chr(10))[0]}"
        for name, module in COMMANDS.items()
    )
    parser = argparse.ArgumentParser(
        "pyro-vae",
        description="Variational autoencoders as Pyro model/guide pairs.",
        epilog=f"commands:{about}\n\n'pyro-vae COMMAND --help' explains each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    name = parser.parse_args(sys.argv[1:2]).command
    chosen = COMMANDS[name]
    run(
        chosen.main,
        chosen.Flags,
        chosen.__doc__,
        sys.argv[2:],
        f"pyro-vae {name}",
    )


if __name__ == "__main__":
    main()
