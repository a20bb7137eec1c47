"""What a command shows while it runs, and when a signal waits for a fit."""

import sys
import time

from tqdm import tqdm

from pyro_vae.cli.interrupt import Interrupt
from pyro_vae.runs.history import Record

INTERVAL = 5.0  # seconds between two lines, at least


class Progress:
    """A live bar on a terminal, and a line for each epoch everywhere.

    Args:
        batch_size: The number of images in a step.
        interrupt: Made patient by the first step, which may have to be
            compiled.

    Attributes:
        has_saved: Whether there was a record, which the fit saves first.
    """

    def __init__(self, batch_size: int, interrupt: Interrupt):
        self._batch_size, self._interrupt = batch_size, interrupt
        self.has_saved = False
        self._epochs = self._num_batches = 1
        self._last: Record = {}
        self._bar = tqdm(disable=True)

    def start(self, epochs: int, num_batches: int, engine: str) -> None:
        """Says what there is to wait for, and shows the bar.

        Args:
            epochs: The number of epochs of the run.
            num_batches: The number of steps in an epoch.
            engine: What steps are taken with: `eager` or `compiled`.
        """
        print(f"{epochs} epochs of {num_batches} steps")
        if engine == "compiled":
            print(
                "compiling the step: some seconds, fewer the next time; "
                "--engine eager does without"
            )
        self._epochs, self._num_batches = epochs, num_batches
        self._bar = tqdm(
            total=self._epochs * num_batches,
            unit=" images",
            unit_scale=self._batch_size,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def on_step(self, step: int, elbo: float) -> None:
        """Moves the bar to a step, and shows its ELBO in nats per image."""
        self._interrupt.is_patient = True
        if self._bar.disable:
            return
        if self._bar.n == 0:  # a resumed run's rate is that of this session
            self._bar.initial = self._bar.n = step - 1
        epoch = (step - 1) // self._num_batches + 1
        kl = self._last.get("test_kl", float("nan"))
        self._bar.set_postfix_str(
            f"epoch {epoch}/{self._epochs}, ELBO {elbo:.1f}, KL {kl:.2f}",
            refresh=False,
        )
        self._bar.update(step - self._bar.n)

    def on_record(self, record: Record) -> None:
        """Prints the record of an epoch in one line."""
        self.has_saved = True
        self._last = record
        tqdm.write(
            f"epoch {record['epoch']:3.0f}  train ELBO "
            f"{record['train_elbo']:9.2f}  test ELBO "
            f"{record['test_elbo']:9.2f}  KL {record['test_kl']:6.2f}  "
            f"{record['images_per_second']:8.0f} images/s  "
            f"{record['seconds']:7.1f} s"
        )

    def close(self) -> None:
        """Leaves the bar as it stands; no step is taken from here on."""
        self._interrupt.is_patient = False
        self._bar.close()


class Counter:
    """Counts images: a live bar on a terminal, and lines elsewhere.

    Args:
        what: What is done with the images, in a word.
        total: The number of images.
    """

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._done, self._started = 0, time.monotonic()
        self._spoke = self._started
        is_live = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=what, unit=" images", disable=not is_live
        )
        if not is_live:
            print(f"{what}: {total} images ...", file=sys.stderr)

    def add(self, count: int) -> None:
        """Counts images that are done; lines come some seconds apart."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._spoke > INTERVAL:
            self._spoke = now
            print(
                f"{self._what}: {self._done} of {self._total} images after "
                f"{now - self._started:.0f} s",
                file=sys.stderr,
            )

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
