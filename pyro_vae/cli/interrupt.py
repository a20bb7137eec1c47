"""How Ctrl-C and SIGTERM end a command: after a step, or at once."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 0.5  # seconds that a library may take to clean up


class Interrupt:
    """What a signal does: it raises a KeyboardInterrupt, or asks a fit to stop.

    All files are written whole or not at all, so that it may raise anywhere. A
    signal after the one that raised ends the process, and so does one that
    Python ignored, since it came where nothing can be raised.

    Attributes:
        is_patient: Whether the first signal only asks, since steps are taken
            that hear it.
        status: The exit status that the first signal calls for; 0 before it.
    """

    def __init__(self) -> None:
        self.is_patient, self.status = False, 0
        self._has_raised = False
        self._usual_hook: Any = None

    def is_requested(self) -> bool:
        """Returns whether there was a signal."""
        return self.status > 0

    def __enter__(self) -> "Interrupt":
        for number in SIGNALS:
            signal.signal(number, self._receive)
        self._usual_hook = sys.unraisablehook
        sys.unraisablehook = self._hear_ignored
        return self

    def __exit__(self, *raised: object) -> None:
        sys.unraisablehook = self._usual_hook
        for number in SIGNALS:  # the end of Python knows no sentence
            signal.signal(number, signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first = self.status == 0
        self.status = self.status or 128 + number
        if self._has_raised:
            self._end()
        if not (is_first and self.is_patient):
            self._has_raised = True
            raise KeyboardInterrupt

    def _hear_ignored(self, ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            self._end()
        self._usual_hook(ignored)

    def _end(self) -> NoReturn:
        with contextlib.suppress(OSError):  # standard error is closed
            os.write(2, b"stopped at once; every file is whole\n")
        os._exit(self.status)


def exit_soon(status: int) -> NoReturn:
    """Exits, whatever a library still waits for, such as a compiler's end."""
    timer = threading.Timer(PATIENCE, os._exit, (status,))
    timer.daemon = True
    timer.start()
    sys.exit(status)
