"""The processes that torchrun has started for one fit."""

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from pyro_vae.cli.streams import open_nowhere
from pyro_vae.svi import LostProcessError, Shards

TIMEOUT = timedelta(minutes=10)  # for a process that lives and is silent
POLL = 0.02  # seconds between two looks at what others have said


class Launched(Shards):
    """The processes of one launch of torchrun, which may start them anew.

    Args:
        group: Their process group.
        store: What outlives a start of theirs.
    """

    def __init__(self, group: Any, store: Any):
        super().__init__(group)
        self._store = store

    @property
    def has_begun(self) -> bool:
        """Whether a run was begun, or taken up, since the launch."""
        return bool(self._store.check(["begun"]))

    def note_begun(self) -> None:
        """Notes that the run's folder was accepted."""
        self._store.set("begun", "")


@contextmanager
def joined() -> Iterator[Shards]:
    """Yields the processes of torchrun that share a fit, or this one alone.

    The first one alone prints. Of their errors the first that comes is
    printed, wherever it is, since the others follow from it or are the same.

    Raises:
        SystemExit: In the place of an error that another process has said.
    """
    if not dist.is_torchelastic_launched():
        yield Shards()
        return
    launch, rank, world_size = next(dist.rendezvous("env://"))
    while isinstance(launch, dist.PrefixStore):  # of one start
        launch = launch.underlying_store
    # The store outlives a start, with the addresses of processes before it.
    store = dist.PrefixStore(meet(launch, rank, world_size), launch)
    if torch.cuda.is_available():
        place = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(place % torch.cuda.device_count())
    dist.init_process_group(
        store=store, rank=rank, world_size=world_size, timeout=TIMEOUT
    )
    with _quiet(rank > 0):
        try:
            yield Launched(dist.group.WORLD, launch)
        except Exception:
            is_first = True
            with contextlib.suppress(Exception):  # the store may be gone
                is_first = store.add("errors", 1) == 1
            if not is_first:
                sys.exit(2)
            raise
    dist.destroy_process_group()


def meet(store: Any, rank: int, world_size: int) -> str:
    """Waits for the processes of one start, and returns a name of theirs.

    torchrun may start processes anew, and those of several machines know of no
    number that is the same in all: each machine counts its own restarts. So
    each process draws a token and says it. The first process proposes the
    tokens that it hears, and goes on once all have agreed, which those of an
    earlier start no longer do.

    Args:
        store: What all processes, of all starts, see.
        rank: The number of this process.
        world_size: How many there are.

    Raises:
        LostProcessError: If the others do not come.
    """
    token = uuid4().hex
    store.set(f"token {rank}", token)
    tokens = [f"token {place}" for place in range(world_size)]
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        if rank == 0 and store.check(tokens):
            store.set("proposal", b" ".join(map(store.get, tokens)))
        if store.check(["proposal"]):
            name = store.get("proposal").decode()
            said = name.split()
            if len(said) == world_size and said[rank] == token:
                store.set(f"{name}, {rank} agrees", "")
                if store.check(
                    [f"{name}, {r} agrees" for r in range(world_size)]
                ):
                    return name
        time.sleep(POLL)
    raise LostProcessError(
        f"some of the {world_size} processes of this fit did not start; "
        "expected torchrun on every machine"
    )


def may_restart() -> bool:
    """Returns whether torchrun starts processes anew when one of them ends."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


@contextmanager
def _quiet(is_quiet: bool) -> Iterator[None]:
    """Keeps a block from printing."""
    if not is_quiet:
        yield
        return
    nowhere = open_nowhere()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
