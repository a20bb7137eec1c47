"""How a command is run: with warnings and errors as sentences."""

import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from pyro_vae.cli.flags import CommandLine, Flags, RefusedError


def run(
    main: Callable[[CommandLine[Flags]], int | None],
    kind: type[Flags],
    about: str | None,
    words: Sequence[str] | None = None,
    program: str | None = None,
) -> NoReturn:
    """Runs a command; what a user can cause ends in one sentence.

    Args:
        main: Does the work, and returns the exit status; None is success.
        kind: The dataclass of its flags.
        about: What it does, for its help.
        words: The words after the command; by default those that were typed.
        program: The words before them; by default those that run a script.

    Raises:
        SystemExit: Always, with the exit status, which is 2 after an error.
    """
    if words is None:
        words = sys.argv[1:]
    if program is None:
        program = f"python {shlex.quote(sys.argv[0])}"
    command = CommandLine(kind, about, words, program)

    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"warning: {command.in_flags(message)}", file=sys.stderr)

    warnings.showwarning = show_warning
    try:
        sys.exit(main(command))
    except (RefusedError, ValueError, ArithmeticError, OSError) as error:
        print(f"error: {command.in_flags(error)}", file=sys.stderr)
        sys.exit(2)
