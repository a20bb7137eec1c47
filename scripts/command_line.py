"""What every script shares: flags from a dataclass, errors as sentences."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

Flags = TypeVar("Flags")


CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def parse(kind: type[Flags], default: Flags | None = None) -> Flags:
    """Reads the command line into a dataclass.

    Args:
        kind: The dataclass; its attributes' docstrings are the help.
        default: What holds where a flag is not given.
    """
    about = sys.modules["__main__"].__doc__
    return tyro.cli(kind, default=default, description=about, config=CONFIG)


def parse_some(kind: type[Flags]) -> Flags:
    """Reads the flags of a dataclass, whatever others there are."""
    some, _ = tyro.cli(
        kind, return_unknown_args=True, add_help=False, config=CONFIG
    )
    return some


def check_at_least_1(flags: Any, *names: str) -> None:
    """Refuses counts below 1; None, where a flag may be left out, is none."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < 1:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is {value}; expected at least 1")


def run(main: Callable[[], int | None]) -> None:
    """Runs a script's main; what a user can cause ends in one sentence."""
    warnings.showwarning = _show_warning
    try:
        sys.exit(main())
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"warning: {message}", file=sys.stderr)
