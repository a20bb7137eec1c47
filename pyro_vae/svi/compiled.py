"""CompiledSVI: Pyro's SVI with its step compiled, for any static pair."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi.agreement import check_agreement
from pyro_vae.svi.arguments import Arguments
from pyro_vae.svi.compat import am_i_wrapped
from pyro_vae.svi.eager import NonFiniteLossError, find_nonfinite_site
from pyro_vae.svi.estimator import ReportingELBO, make_recordable
from pyro_vae.svi.matmul import check_precision
from pyro_vae.svi.optimizers import check_optimizer, make_updates
from pyro_vae.svi.pairs import Pair, Run
from pyro_vae.svi.programs import Programs, Step, warn_of_many
from pyro_vae.svi.random_states import get_random_states, set_random_states
from pyro_vae.svi.refusals import DynamicPairError
from pyro_vae.svi.updates import Updates

Loss = Tensor | tuple[Tensor, ...]


class CompiledSVI:
    r"""`pyro.infer.SVI` whose step runs as one compiled graph.

    The pair is run twice through Pyro's handlers, and once more while loss and
    gradients are recorded; the record is compiled by Inductor, and one fused
    kernel updates the parameters. A step that draws initial parameters is
    taken eagerly. With the same seed the losses and parameters are those of
    `pyro.infer.SVI`, up to rounding; unlike there, a loss that is not finite
    raises, and parameters and buffers stay as they were. Parameters stay where
    they are (in modules and in Pyro's param store), the optimizer's state in
    the optimizer.

    The pair must be static: the same sites, shapes and operations at every
    step. What depends on a tensor's value is refused. Anew compiles:

    - an argument's new shape, dtype or Python value;
    - a module's `train()` or `eval()`, a frozen parameter, another dtype, and
      a parameter, buffer or submodule put in another's place;
    - a number, string or small container that the code of the model or the
      guide reads from a global, a closure or an attribute, if it changes.

    Tensors that the code reads there are read anew at every step, and those
    that it leaves in an attribute are left there. Other changes that it makes
    to Python objects, such as a counter's, are refused.

    Steps 1, 2, 4, 8, ... are also computed eagerly, without being taken, and
    compared, which finds what code cannot be read for: state in other
    libraries, random numbers from Python or NumPy. What remains unseen is such
    state between two of these steps.

    Args:
        model: A Pyro model: any callable.
        guide: Its guide.
        optim: An optimizer of `pyro.optim` (`Adam`, `AdamW` and `ClippedAdam`
            are the fastest), a scheduler of it, or a torch optimizer over
            given parameters.
        loss: An estimator such as `Trace_ELBO` (by default), or a function
            `(model, guide, *args, **kwargs)` that returns the loss. A
            `ReportingELBO` gets its reports.
        loss_and_grads: A function like `loss` that also computes gradients, if
            `loss` is a function.
        precision: The precision of large float32 matrix products: `highest`,
            `high` or `medium` (on the CPU: bfloat16 products where the
            processor has them).
        clip_norm: The largest norm of all gradients together; by default they
            are left as they are.
        compare: Whether steps 2, 4, 8, ... are compared with eager ones.

    Attributes:
        num_compilations: The number of graphs that have been compiled.

    Raises:
        ValueError: For an optimizer, a loss or a precision that it cannot take.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        optim: PyroOptim | torch.optim.Optimizer,
        loss: ELBO | Callable | None = None,
        loss_and_grads: Callable | None = None,
        *,
        precision: str = "highest",
        clip_norm: float | None = None,
        compare: bool = True,
    ):
        check_optimizer(optim)
        check_precision(precision)
        self.model, self.guide, self.optim = model, guide, optim
        self.loss = Trace_ELBO() if loss is None else loss
        self.loss_and_grads = loss_and_grads
        self.precision, self.clip_norm = precision, clip_norm
        self.compare = compare
        self.num_compilations = 0
        self._num_steps = 0
        self._stepped: dict[Tensor, None] = {}  # parameters that have stepped
        self._updates: Updates | None = None
        self._programs = self._start_anew()

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Takes a gradient step on the loss and returns its estimate.

        Args:
            args: Arguments of the model and the guide: tensors, Python values,
                and lists, tuples, dictionaries and dataclasses of them.
            kwargs: The same, by name.

        Returns:
            A float, or a tuple of floats if the estimator has several losses.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite; it names the
                site, and nothing was touched.
            DynamicPairError: If the pair is found not to be static.
            CompilationError: If the machine cannot compile.
        """
        losses = self.step_tensor(*args, **kwargs)
        parts = losses if isinstance(losses, tuple) else (losses,)
        values = [loss.item() for loss in parts]
        if not all(map(math.isfinite, values)):
            site = find_nonfinite_site(self.model, self.guide, *args, **kwargs)
            raise NonFiniteLossError(f"the loss is {values[0]} {site}")
        return tuple(values) if isinstance(losses, tuple) else values[0]

    def step_tensor(self, *args: Any, **kwargs: Any) -> Any:
        """Takes a step and returns the loss as a tensor, `()`, or several.

        On CUDA nothing waits for the device, unless the optimizer is another
        than those that are the fastest. A loss that is not finite updates
        nothing and is returned.
        """
        with torch.no_grad():
            self._look()
            given = _set_aside(self._programs.params)
            try:
                return self._step(given, args, kwargs)
            finally:
                for param, grad in given.items():  # those that are left
                    param.grad = grad

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Returns an estimate of the loss; arguments as in `step`."""
        with torch.no_grad():
            self._look()
            programs = self._programs
            if not programs.params:
                return programs.pair.compute_loss(args, kwargs)
            values = [v.item() for v in programs.find_loss(args, kwargs)]
            return values[0] if len(values) == 1 else tuple(values)

    def _start_anew(self) -> Programs:
        """Returns graphs for the pair as it is now: none."""

        def count() -> None:
            self.num_compilations += 1
            warn_of_many(self.num_compilations)

        self._code = (self.model, self.guide, self.loss, self.loss_and_grads)
        loss = make_recordable(self.loss)
        pair = Pair(
            self.model, self.guide, loss, self.loss_and_grads, self.clip_norm
        )
        return Programs(pair, self.precision, count)

    def _look(self) -> None:
        """Forgets the graphs if something they took for granted is gone."""
        if am_i_wrapped():
            raise ValueError(
                "the step runs inside a Pyro handler; expected it outside: "
                "put the handler around the model or the guide instead"
            )
        if torch.is_anomaly_enabled():
            raise ValueError(
                "torch's anomaly detection is on, which a compiled step has "
                "no place for; expected it off: use pyro.infer.SVI to look "
                "for an anomaly"
            )
        code = (self.model, self.guide, self.loss, self.loss_and_grads)
        is_same = all(
            new is old for new, old in zip(code, self._code, strict=True)
        )
        if not (is_same and self._programs.hold()):
            self._programs = self._start_anew()

    def _step(
        self, given: dict[Tensor, Tensor], args: tuple, kwargs: dict
    ) -> Loss:
        """Takes a step; takes out of `given` what it has added."""
        programs, expected = self._programs, None
        call = Arguments(args, kwargs, programs.params)
        step = programs.find_step(call)
        if step is None:
            given |= _set_aside(programs.list_candidates())
            rehearsal = programs.rehearse(args, kwargs)
            if rehearsal.is_step:
                return self._finish(rehearsal.first, given)
            call = Arguments(args, kwargs, programs.params)
            expected = rehearsal.run
            # Where only parameters were unknown, there is a graph already.
            step = programs.find_step(call) or programs.record_step(
                call, rehearsal
            )
        elif self.compare and _is_power_of_two(self._num_steps + 1):
            expected = programs.run_aside(args, kwargs)
        return self._take_step(step, call, expected, given)

    def _take_step(
        self,
        step: Step,
        call: Arguments,
        expected: Run | None,
        given: dict[Tensor, Tensor],
    ) -> Loss:
        """Runs a graph, compares its results if asked to, and finishes."""
        states = None if expected is None else get_random_states()
        before = [buffer.clone() for buffer in step.buffers]
        results = self._programs.run(step, call)
        count = step.num_losses + len(step.stepped)
        losses, grads = results[: step.num_losses], results[step.num_losses :]
        gradients = dict(zip(step.stepped, grads, strict=False))
        left, report = results[count:], None
        if isinstance(self.loss, ReportingELBO):
            report = left.pop().clone()
        if expected is not None and states is not None:
            try:
                check_agreement(expected, losses, gradients, self.precision)
            except DynamicPairError:
                set_random_states(states)
                for buffer, value in zip(step.buffers, before, strict=True):
                    buffer.copy_(value)
                raise
        # The next step writes where this one did.
        run = Run(
            [loss.clone() for loss in losses],
            gradients,
            step.announced,
            [],
            report,
        )
        result = self._finish(run, given)
        if step.buffers:
            is_finite = _are_finite(losses)
            for buffer, value in zip(step.buffers, before, strict=True):
                buffer.copy_(torch.where(is_finite, buffer, value))
        for place, tensor in zip(step.left, left, strict=True):
            place.put(tensor.clone())
        return result

    def _finish(self, run: Run, given: dict[Tensor, Tensor]) -> Loss:
        """Updates the parameters by a run's results, and reports."""
        if isinstance(self.loss, ReportingELBO) and run.report is not None:
            self.loss.take_report(run.report)
        self._update(run, given)
        self._num_steps += 1
        return run.losses[0] if len(run.losses) == 1 else tuple(run.losses)

    def _update(self, run: Run, given: dict[Tensor, Tensor]) -> None:
        """Updates the parameters, unless a loss is not finite.

        A parameter that has stepped before steps also without a gradient, by
        its moments, as under `pyro.infer.SVI`, which leaves zeros in its
        gradient.
        """
        skip = None
        if run.losses[0].is_cuda:
            skip = (~_are_finite(run.losses)).to(torch.float32)
        elif not all(math.isfinite(loss.item()) for loss in run.losses):
            return
        if self._updates is None or self._updates.optim is not self.optim:
            self._updates = make_updates(self.optim)
        gradients = self._add_given(run, given)
        self._stepped.update(dict.fromkeys(gradients))
        stepping = [param for param in run.announced if param in self._stepped]
        grads = [
            gradients[param] if param in gradients else torch.zeros_like(param)
            for param in stepping
        ]
        self._updates.step(self._updates.add(stepping), grads, skip)

    def _add_given(
        self, run: Run, given: dict[Tensor, Tensor]
    ) -> dict[Tensor, Tensor]:
        """Adds the gradients that a `backward` of the user's has left."""
        adding = [param for param in run.announced if param in given]
        if not adding:
            return run.gradients
        if self.clip_norm is not None and any(given[p].any() for p in adding):
            raise ValueError(
                "parameters have a gradient of their own before the step, and "
                "clip_norm is given; expected one of the two: add the penalty "
                "to the model by pyro.factor"
            )
        gradients = dict(run.gradients)
        for param in adding:
            gradients[param] = gradients.get(param, 0) + given.pop(param)
        return gradients


def _set_aside(params: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """Takes the gradients of parameters away, and returns them."""
    given = {p: p.grad for p in params if p.grad is not None}
    for param in given:
        param.grad = None
    return given


def _are_finite(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack([loss.isfinite() for loss in losses]).all()


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
