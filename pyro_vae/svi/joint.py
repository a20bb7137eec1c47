"""What several processes have computed on their rows, summed."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.svi.optimizers import shorten
from pyro_vae.svi.pairs import Run
from pyro_vae.svi.random_states import get_random_states, set_random_states
from pyro_vae.svi.shards import Shards


class Joint:
    """The runs of one pair in all processes, as one run of the minibatch.

    What the processes compute, they compute alone: no recorded graph holds a
    collective, and a process may compute a step in another way than the
    others, or repeat it. A process that fails says so in the sum, which is
    then of no use; all raise its error, and random states and means are as
    before.

    Args:
        shards: The processes.
        clip_norm: The largest norm of all gradients together, or None.
        means: Tensors that a run moves in proportion to means over its rows.
    """

    def __init__(
        self,
        shards: Shards,
        clip_norm: float | None,
        means: Sequence[Tensor] = (),
    ):
        self.shards, self.clip_norm, self.means = shards, clip_norm, means
        self._last: Run | None = None  # by whose sizes a failed one joins

    def run(self, compute: Callable[[], Run]) -> Run:
        """Returns the sum of all runs, the same in all processes.

        Args:
            compute: Runs the pair on this process's rows.

        Raises:
            Exception: The error of the first process that has one.
            LostProcessError: If another process has ended.
        """
        if self.shards.is_alone:
            return compute()
        self._check_begun()
        states, failure, run = get_random_states(), None, self._last
        before = [mean.clone() for mean in self.means]
        try:
            run = compute()
        except Exception as error:
            failure = error
        if self._last is None or run is None:
            self._fail(failure, states, before)
        assert run is not None
        total = self._sum(run, failure is not None)
        if self.shards.has_failure:
            self._fail(failure, states, before)
        self._last = total
        return total

    def sum_losses(self, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Returns the sums of losses, `()` each; errors are as in `run`."""
        if self.shards.is_alone:
            return compute()
        self._check_begun()
        with self.shards.failing_together():
            losses = compute()
        return self.shards.sum(losses)[0]

    def _check_begun(self) -> None:
        """Refuses rows of no minibatch."""
        if not self.shards.part.size:
            raise ValueError(
                f"the step is one of {self.shards.world_size} processes, and "
                "no minibatch was begun; expected rows = shards.begin(B) "
                "before, and those rows of its B as the arguments"
            )

    def _fail(
        self,
        failure: Exception | None,
        states: list[Tensor],
        means: list[Tensor],
    ) -> None:
        """Raises the error of the first process that has one."""
        try:
            self.shards.fail_together(failure)
        except Exception:
            set_random_states(states)
            self._set_means(means)
            raise

    @torch.no_grad()
    def _set_means(self, values: Sequence[Tensor]) -> None:
        for mean, value in zip(self.means, values, strict=True):
            mean.copy_(value)

    def _sum(self, run: Run, has_failed: bool) -> Run:
        params = [p for p in run.announced if p.requires_grad]
        known = run.by_parameter()
        grads = [
            known[p] if p in known else torch.zeros_like(p) for p in params
        ]
        marks = run.losses[0].new_tensor([p in known for p in params])
        reports = [] if run.report is None else [run.report]
        parts = [*run.losses, marks, *grads, *reports]
        sums, means = self.shards.sum(parts, self.means, has_failed)
        losses = [sums.pop(0) for _ in run.losses]
        marks, report = sums.pop(0), sums.pop() if reports else None
        self._set_means(means)
        pairs = zip(params, sums, marks.tolist(), strict=True)
        found = {param: grad for param, grad, count in pairs if count}
        stepped = run.stepped  # the list itself, where it is all of them
        if {*map(id, stepped)} != {*map(id, found)}:
            stepped = [*found]
        return replace(
            run,
            losses=losses,
            stepped=stepped,
            gradients=shorten([found[p] for p in stepped], self.clip_norm),
            report=report,
        )
