"""How a command is run: with warnings and errors as sentences."""

import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from pyro_vae.cli.flags import (
    CommandLine,
    Flags,
    RefusedError,
    arguments_to_flags,
    list_flags,
)


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
    names = list(list_flags(kind))

    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        sentence = arguments_to_flags(str(message), names)
        print(f"warning: {sentence}", file=sys.stderr)

    warnings.showwarning = show_warning
    try:
        sys.exit(main(CommandLine(kind, about, words, program)))
    except (RefusedError, ValueError, ArithmeticError, OSError) as error:
        sentence = arguments_to_flags(str(error), names)
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
