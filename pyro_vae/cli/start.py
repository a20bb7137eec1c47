"""Ctrl-C and SIGTERM while a command's imports load: a sentence at once.

To import this is to begin; it comes before all that takes seconds to load, and
needs nothing of it. `run` puts its own handlers in the place of these.
"""

import contextlib
import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
USUAL = {number: signal.getsignal(number) for number in SIGNALS}


def end_now(number: int, frame: FrameType | None) -> None:
    """Says that nothing was done, and ends the process."""
    with contextlib.suppress(OSError):  # standard error is closed
        os.write(2, b"stopped while loading; nothing was done\n")
    os._exit(128 + number)


def give_back() -> None:
    """Puts the handlers back that were there before."""
    for number, handler in USUAL.items():
        signal.signal(number, handler)


for number in SIGNALS:
    signal.signal(number, end_now)
