"""Files that are written whole or not at all, and folders of the user's own."""

import contextlib
import functools
import glob
import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
    import grp
    import pwd
except ImportError:  # Windows has none of them
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"  # the ending of a file that is being written


def write_atomically(
    path: Path, content: bytes, previous: Path | None = None
) -> None:
    """Writes a file so that a crash leaves either the old or the new one.

    The new content is on the disk before it takes the old one's place, and so
    is the new name before this returns. A link of that name is replaced, and
    what it points to is left alone. Of two processes that write at once, the
    last one's file stays.

    Args:
        path: The file.
        content: Its new content.
        previous: What the old file is to be called from then on, if it is kept.

    Raises:
        OSError: If the folder cannot be written to.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    partial.unlink(missing_ok=True)  # of a crash, or a link to elsewhere
    with open(partial, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if previous is not None and path.exists():
        os.replace(path, previous)
    os.replace(partial, path)
    sync_folder(path.parent)


def remove_partials(path: Path) -> None:
    """Removes what crashes left of a file that nobody is writing now."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Lets one process at a time run a block, where the system has locks.

    Args:
        path: The file that is locked, in a folder of the user's own; it stays.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "ab") as file:
        with contextlib.suppress(OSError):  # some file systems cannot
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # the end of the file's use ends the lock


def find_cache() -> Path:
    """Returns the folder for what can be made again; it may not exist yet.

    It is `pyro_vae` in `XDG_CACHE_HOME`, or in `.cache` in the user's home.
    """
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "pyro_vae"
    try:
        return Path.home() / ".cache" / "pyro_vae"
    except RuntimeError:
        raise OSError(
            "this user has no home folder for a cache; expected another folder "
            "in the environment variable XDG_CACHE_HOME"
        ) from None


def find_code_folder() -> Path:
    """Returns the folder for what is compiled, which is still to be checked.

    It is the one that TORCHINDUCTOR_CACHE_DIR names, or `compiled` in the
    cache. torch's own choice, which it writes into that variable, has a name
    that anybody can guess, in the system's folder of temporary files, where
    another user may have put code before.
    """
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if named is None or Path(named).name.startswith("torchinductor_"):
        return (find_cache() / "compiled").absolute()
    return Path(named).absolute()


@functools.cache
def make_code_folder(folder: Path) -> Path:
    """Returns a folder for code that will be run: the given one if it is safe.

    It is made if it does not exist. It is safe if nobody but its user can write
    to it, or put another in its place. Otherwise a warning says so, and the
    folder returned is a new one, to be deleted when the process ends.
    """
    try:
        for parent in reversed((folder, *folder.parents)):
            parent.mkdir(mode=0o700, exist_ok=True)
        folder = folder.resolve()  # a link may be changed after the check
        fault = _find_fault(folder)
    except OSError as error:
        fault = f"{folder} cannot be made: {error.strerror}"
    if fault is None:
        return folder
    warnings.warn(
        f"{fault}; nothing that is compiled now is kept for the next time. "
        "Expected a folder that only you can write to: delete it, or name "
        "another in TORCHINDUCTOR_CACHE_DIR",
        stacklevel=3,
    )
    temporary = tempfile.TemporaryDirectory(prefix="pyro_vae_")
    _kept.append(temporary)
    return Path(temporary.name)


_kept: list[tempfile.TemporaryDirectory] = []  # until the process ends


def _find_fault(folder: Path) -> str | None:
    """Returns who else can put files into a folder; None if nobody can."""
    if not hasattr(os, "getuid"):
        return None  # Windows has no such owners
    state = folder.stat()
    if state.st_uid != os.getuid():
        return f"{folder} belongs to the user of number {state.st_uid}"
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(state.st_mode)
        return f"other users can write to {folder} (mode {mode:o})"
    for parent in folder.parents:
        state = parent.stat()
        others = state.st_mode & stat.S_IWOTH or (
            state.st_mode & stat.S_IWGRP and _is_shared(state.st_gid)
        )
        # In a sticky folder, only its owner can rename a file.
        if others and not state.st_mode & stat.S_ISVTX:
            return f"other users can replace {folder}: they can write {parent}"
        if state.st_uid not in (0, os.getuid()):
            return f"{parent} belongs to the user of number {state.st_uid}"
    return None


def _is_shared(group: int) -> bool:
    """Returns whether a group is another than root's or the user's own one.

    Many systems give each user a group of their own name, in which the user is
    alone, and let it write to all of the user's folders.
    """
    try:
        found, user = grp.getgrgid(group), pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # one of them has no name
        return True
    owners = {"root", user}
    return found.gr_name not in owners or not owners.issuperset(found.gr_mem)
