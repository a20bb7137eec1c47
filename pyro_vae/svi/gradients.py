"""Losses and gradients of a pair, computed by compiled graphs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from pyro_vae.svi.agreement import (
    DisagreementError,
    check_agreement,
    run_nearby,
)
from pyro_vae.svi.arguments import Arguments, list_tensors
from pyro_vae.svi.compat import have_hooks
from pyro_vae.svi.estimator import ReportingELBO, make_recordable
from pyro_vae.svi.hooks import call_hooks, refuse_hooks, set_aside
from pyro_vae.svi.joint import Joint
from pyro_vae.svi.options import PATIENCE, check_options, warn_of_many
from pyro_vae.svi.pairs import Pair, Run, listed
from pyro_vae.svi.programs import Programs
from pyro_vae.svi.random_states import get_random_states
from pyro_vae.svi.refusals import DynamicPairError
from pyro_vae.svi.step import Step
from pyro_vae.svi.undo import Undo


class CompiledGradients:
    """The losses and gradients of a pair, as its eager runs would give them.

    Args:
        pair: The pair; its loss may be an estimator that is recorded as
            another one.
        precision: The precision of large float32 products, as in `CompiledSVI`.
        compare: Whether runs 2, 4, 8, ... are compared with eager ones.
        engine: What runs the graphs, as in `CompiledSVI`.

    Attributes:
        options: The arguments, without the pair.
        num_compilations: The number of graphs that have been made.
    """

    def __init__(self, pair: Pair, precision: str, compare: bool, engine: str):
        check_options(precision, compare, engine)
        self.options = (precision, compare, engine)
        self.precision, self.compare = precision, compare
        self._patience = PATIENCE[engine]
        self.num_compilations = 0
        self._num_runs = 0
        self._start_anew(pair)

    def look(self, pair: Pair) -> None:
        """Forgets the graphs if something they took for granted is gone.

        Args:
            pair: The pair as it is now.
        """
        if torch.is_anomaly_enabled():
            raise ValueError(
                "torch's anomaly detection is on, which a compiled step does "
                "not support; expected it off: use pyro.infer.SVI to look "
                "for an anomaly"
            )
        if pair.clip_norm is not None and have_hooks(
            self._programs.list_known()
        ):
            raise ValueError(
                "a parameter has a hook on its gradient, and clip_norm is "
                "given; expected one of the two: clip in the hook"
            )
        if not (self._pair.is_same(pair) and self._programs.hold()):
            self._start_anew(pair)

    def _start_anew(self, pair: Pair) -> None:
        """Has graphs for a pair as it is now: none."""

        def count() -> None:
            self.num_compilations += 1
            warn_of_many(self.num_compilations)

        self._pair = pair
        self._joint = Joint(pair.shards, pair.clip_norm)
        recorded = pair.with_loss(make_recordable(pair.loss))
        self._programs = Programs(
            recorded, self.precision, self._patience, count
        )

    def compute(self, args: tuple, kwargs: dict) -> Run:
        """Returns losses and gradients, which the next call may overwrite.

        They are summed over the processes that share the minibatch. Where a
        loss is not finite, buffers are left as they were.

        Raises:
            DynamicPairError: If the pair is found not to be static.
            CompilationError: If the machine cannot compile.
        """
        run = self._joint.run(lambda: self._compute_own(args, kwargs))
        return self._finish(run)

    def _compute_own(self, args: tuple, kwargs: dict) -> Run:
        """Returns what `_compute` does, unless gradients are given wrongly."""
        self._pair.check_given(self._programs.list_known())
        run = self._compute(args, kwargs)
        self._pair.check_given(run.announced)
        return run

    def _compute(self, args: tuple, kwargs: dict) -> Run:
        """Returns the losses and gradients of this process's rows."""
        programs = self._programs
        call = programs.take_apart(args, kwargs)
        step = programs.find_step(call)
        if step is None:
            candidates = programs.list_candidates()
            is_hooked = have_hooks(candidates)
            with set_aside([*candidates, *list_tensors([args, kwargs])]):
                run = self._run_first(args, kwargs, is_hooked)
                for param in programs.list_candidates():
                    param.grad = None
            return run
        if step.num_backwards > 1 and have_hooks(step.stepped):
            refuse_hooks()
        # Whether numbers are really inputs is seen when they first change.
        is_proof = step.numbers not in ((), programs.list_numbers(call))
        is_due = self.compare and _is_power_of_two(self._num_runs + 1)
        expected = None
        if is_proof or is_due:
            expected = self._run_eagerly(step, call, args, kwargs)
        try:
            run = self._run_checked(step, call, expected, args, kwargs)
        except DynamicPairError:
            if is_proof and programs.fix_numbers():
                return self._compute(args, kwargs)
            raise
        if is_proof:
            step.numbers = ()
        return run

    def _run_eagerly(
        self, step: Step, call: Arguments, args: tuple, kwargs: dict
    ) -> Run | None:
        """Returns what an eager run gives, None if the loss is not finite.

        The graph finds that at any step, where an eager run may meet it as an
        error of Pyro's validation.
        """
        try:
            with self._aside(args, kwargs):
                return self._programs.run_aside(args, kwargs)
        except DynamicPairError:
            raise
        except ValueError:
            inputs = self._programs.list_inputs(step, call)
            undo = Undo([*inputs, *step.buffers], step.left)
            try:
                is_finite = self._run(step, call).is_finite()
            finally:
                undo.restore()
            if is_finite:
                raise
            return None

    def _aside(self, args: tuple, kwargs: dict) -> AbstractContextManager:
        """Keeps an eager run's gradients to itself."""
        given = list_tensors([args, kwargs])
        return set_aside([*self._programs.list_candidates(), *given])

    def _run_first(self, args: tuple, kwargs: dict, is_hooked: bool) -> Run:
        """Computes what there is no graph for, and records one."""
        programs = self._programs
        rehearsal = programs.rehearse(args, kwargs)
        try:
            if is_hooked and rehearsal.num_backwards > 1:
                refuse_hooks()
            if rehearsal.is_step:
                if not rehearsal.first.is_finite():
                    rehearsal.restore_all()
                return rehearsal.first
            call = programs.take_apart(args, kwargs)
            # Where only parameters were unknown, there is a graph already.
            step = programs.find_step(call)
            step = step or programs.record_step(call, rehearsal)
            return self._run_checked(step, call, rehearsal.run, args, kwargs)
        except BaseException as error:
            rehearsal.restore_all()
            if isinstance(error, DynamicPairError) and programs.fix_numbers():
                return self._run_first(args, kwargs, is_hooked)
            raise

    def compute_loss(self, args: tuple, kwargs: dict) -> Any:
        """Returns the loss, or a tuple of losses, without gradients."""
        if not self._programs.params and self._pair.shards.is_alone:
            return self._programs.pair.compute_loss(args, kwargs)
        losses = self._joint.sum_losses(
            lambda: self._compute_losses(args, kwargs)
        )
        values = [loss.item() for loss in losses]
        return values[0] if len(values) == 1 else tuple(values)

    def _compute_losses(self, args: tuple, kwargs: dict) -> list[Tensor]:
        """Returns the losses of this process's rows."""
        if self._programs.params:
            return self._programs.find_loss(args, kwargs)
        losses = listed(self._programs.pair.compute_loss(args, kwargs))
        return list(map(torch.as_tensor, losses))

    def _run_checked(
        self,
        step: Step,
        call: Arguments,
        expected: Run | None,
        args: tuple,
        kwargs: dict,
    ) -> Run:
        """Runs a graph, and compares its results with an eager run's."""
        if expected is None:
            return self._run(step, call)
        try:
            return self._run(step, call, [expected])
        except DisagreementError:  # unless it is one of rounding
            with self._aside(args, kwargs):
                nearby = run_nearby(
                    expected,
                    self.precision,
                    lambda: self._programs.run_aside(args, kwargs),
                )
                expectations = [expected, *nearby]
            return self._run(step, call, expectations)

    def _run(
        self, step: Step, call: Arguments, expected: Sequence[Run] = ()
    ) -> Run:
        """Runs a graph, and compares its results if there are eager ones."""
        undo = None
        if expected:
            inputs = self._programs.list_inputs(step, call)
            undo = Undo([*inputs, *step.buffers])
        states = get_random_states() if step.program.has_flag else []
        before = [buffer.clone() for buffer in step.buffers]
        run, left = self._collect(step, self._programs.run(step, call))
        if not step.program.is_valid and run.is_finite():
            self._validate(step, call, states, before)
        if undo is not None:
            try:
                check_agreement(expected, run, self.precision)
            except DynamicPairError:
                undo.restore()
                raise
        if step.buffers:
            is_finite = run.is_finite()
            for buffer, value in zip(step.buffers, before, strict=True):
                buffer.copy_(torch.where(is_finite, buffer, value))
        if left and not run.is_finite():
            return run
        kept = {id(tensor): tensor.clone() for tensor in left}
        for place, tensor in zip(step.left, left, strict=True):
            place.put(kept[id(tensor)])
        return run

    def _validate(
        self,
        step: Step,
        call: Arguments,
        states: list[Tensor],
        before: list[Tensor],
    ) -> None:
        """Raises what the pair does, eagerly, on the state before the step."""
        after = Undo(step.buffers)
        for buffer, value in zip(step.buffers, before, strict=True):
            buffer.copy_(value)
        self._programs.validate(step.program, call, states)
        after.restore_tensors()

    def _collect(
        self, step: Step, results: list[Tensor]
    ) -> tuple[Run, list[Tensor]]:
        """Returns a graph's results, and the tensors that it leaves."""
        count = step.num_losses + len(step.stepped)
        left = results[count:]
        run = Run(
            # A loss may be a parameter or a buffer, which is changed later.
            [loss.clone() for loss in results[: step.num_losses]],
            step.stepped,
            results[step.num_losses : count],
            step.announced,
            step.names,
            left.pop().clone() if step.has_report else None,
        )
        return run, left

    def _finish(self, run: Run) -> Run:
        """Calls the hooks on gradients, and gives a report to the estimator.

        Hooks may do anything in Python, so that no graph has them.
        """
        self._num_runs += 1
        if have_hooks(run.stepped):
            pairs = zip(run.stepped, run.gradients, strict=True)
            given = {param: call_hooks(param, grad) for param, grad in pairs}
            left = {p: grad for p, grad in given.items() if grad is not None}
            run.stepped, run.gradients = [*left], [*left.values()]
        loss = self._pair.loss
        if isinstance(loss, ReportingELBO) and run.report is not None:
            loss.take_report(run.report)
        return run


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
