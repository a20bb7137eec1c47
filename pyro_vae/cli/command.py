"""How a command is run: with warnings, errors and signals as sentences."""

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
)
from pyro_vae.cli.interrupt import Interrupt, exit_soon
from pyro_vae.cli.memory import explain_memory
from pyro_vae.cli.streams import tolerate_closed_streams
from pyro_vae.runs.files import FileError

# What a sentence on a file says of flags; its entries nobody gave as such.
BESIDE_FILES = ("resume", "overwrite", "epochs")


def run(
    main: Callable[[CommandLine[Flags]], int | None],
    kind: type[Flags],
    about: str | None,
    words: Sequence[str] | None = None,
    program: str | None = None,
) -> NoReturn:
    """Runs a command; what a user can cause ends in one sentence.

    Args:
        main: Does the work, and returns the exit status; None is success. What
            its KeyboardInterrupt says is printed.
        kind: The dataclass of its flags.
        about: What it does, for its help.
        words: The words after the command; by default those that were typed.
        program: The words before them; by default those that run a script.

    Raises:
        SystemExit: Always, with the exit status, which is 2 after an error, and
            130 after Ctrl-C or 143 after SIGTERM.
    """
    tolerate_closed_streams()
    if words is None:
        words = sys.argv[1:]
    if program is None:
        program = f"python {shlex.quote(sys.argv[0])}"
    with Interrupt() as interrupt:
        command = CommandLine(kind, about, words, program, interrupt)
        show_warnings(command)
        try:
            sys.exit(main(command))
        except KeyboardInterrupt as stopped:
            warnings.simplefilter("ignore")  # of what was left undone
            said = str(stopped) or "give the same command to start again"
            print(f"stopped at once; {said}", file=sys.stderr)
        except Exception as error:
            print(f"error: {explain(error, command)}", file=sys.stderr)
            sys.exit(2)
        exit_soon(interrupt.status or 130)


def show_warnings(command: CommandLine) -> None:
    """Prints warnings as sentences, from here on."""

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


def explain(error: Exception, command: CommandLine) -> str:
    """Returns the sentence on an error.

    Raises:
        Exception: The error itself, if no user can cause it.
    """
    sentence = explain_memory(error, command)
    if sentence is not None:
        return sentence
    if isinstance(error, FileError):
        return arguments_to_flags(str(error), BESIDE_FILES)
    if isinstance(error, RefusedError | ValueError | ArithmeticError | OSError):
        return command.in_flags(error)
    raise error
