"""One process at a time writes into a run's folder."""

import contextlib
import json
import os
import socket
import stat
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two fits in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

LOCK = "fit.lock"


class FolderLock:
    """The right to write into a folder, which the end of a process gives back.

    Args:
        folder: An existing folder.

    Raises:
        ValueError: If another fit has it; the sentence names its process.
    """

    _descriptor: int | None = None

    def __init__(self, folder: Path):
        self._path, self._owner = folder / LOCK, os.getpid()
        while fcntl is not None and self._descriptor is None:
            self._descriptor = self._try()

    def release(self) -> None:
        """Gives the right back."""
        # A process that was forked from a fit has no right to give back.
        if self._descriptor is None or self._owner != os.getpid():
            return
        descriptor, self._descriptor = self._descriptor, None
        if self._is_that_of(descriptor):
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(descriptor)

    def is_held(self) -> bool:
        """Returns whether nobody has deleted or replaced the lock's file."""
        return self._descriptor is None or self._is_that_of(self._descriptor)

    def _is_that_of(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def __del__(self) -> None:
        self.release()

    def _try(self) -> int | None:
        """Returns the locked file; None if it was deleted meanwhile."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise ValueError(
                f"{self._path} cannot be opened ({error.strerror}); expected a "
                "folder that this fit can write to"
            ) from None
        try:
            is_same = self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if not is_same:
            os.close(descriptor)
            return None
        return descriptor

    def _lock(self, descriptor: int) -> bool:
        """Locks an open file; returns whether it is still the folder's."""
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
            raise ValueError(
                f"{self._path} is no file that a fit made; expected none: "
                "delete it"
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _describe(os.read(descriptor, 1000))
            raise ValueError(
                f"{self._path.parent} is in use by a fit in {holder}; expected "
                "one fit at a time: wait for it, stop it, or name another "
                "output"
            ) from None
        except OSError:
            pass  # a file system without locks: no other fit is noticed
        if not self._is_that_of(descriptor):
            return False
        about = {"process": os.getpid(), "host": socket.gethostname()}
        with contextlib.suppress(OSError):  # a full disk: the lock holds
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps(about).encode())
        return True


def _describe(content: bytes) -> str:
    """Returns which process a lock's content names, in words."""
    try:
        about = json.loads(content)
        process, host = about["process"], about["host"]
    except (ValueError, KeyError, TypeError):
        return "another process"
    if (process, host) == (os.getpid(), socket.gethostname()):
        return "this process (delete what fit() returned, or finish it)"
    return f"process {process} on {host}"
