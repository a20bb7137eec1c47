"""What this machine has, as far as the system tells."""

import contextlib
import math
import os
from pathlib import Path

LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def find_memory() -> float:
    """Returns the memory that this process may take, in bytes.

    It is the machine's, or its container's if that is less; infinity where it
    is not known.
    """
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):  # Windows has none
        return math.inf
    for path in LIMITS:  # of a container, in two versions
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(Path(path).read_text()))
    return min(sizes)
