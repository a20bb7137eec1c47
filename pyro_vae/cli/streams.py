"""Standard output and error that may be closed, full, or short of letters."""

import contextlib
import functools
import io
import os
import sys
from typing import Any


class Stream:
    """A text stream that falls silent at its first failure.

    Its descriptor then leads to nowhere, too, so that what is left in a buffer
    does no harm when Python ends.

    Args:
        stream: The stream; None, which Python has for a closed one, is silent.
    """

    def __init__(self, stream: Any):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
        self._stream = open_nowhere() if stream is None else stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, if anybody can read it."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._fall_silent()
        return len(text)

    def flush(self) -> None:
        """Writes what is left in the buffer."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._fall_silent()

    def _fall_silent(self) -> None:
        nowhere = open_nowhere()
        with contextlib.suppress(OSError, ValueError):  # it has no descriptor
            os.dup2(nowhere.fileno(), self._stream.fileno())
        self._stream = nowhere


def tolerate_closed_streams() -> None:
    """Lets standard output and error be closed at any time."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Stream):
            setattr(sys, name, Stream(stream))


@functools.cache
def open_nowhere() -> io.TextIOWrapper:
    """Returns a stream that nobody reads."""
    return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
