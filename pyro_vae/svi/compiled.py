"""CompiledSVI: Pyro's SVI with its step compiled, for any static pair."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi.arguments import Arguments
from pyro_vae.svi.compat import am_i_wrapped, get_unconstrained
from pyro_vae.svi.eager import NonFiniteLossError, find_nonfinite_site
from pyro_vae.svi.estimator import ReportingELBO, check_estimator
from pyro_vae.svi.graphs import DynamicPairError, Program, compile_graph
from pyro_vae.svi.matmul import check_precision
from pyro_vae.svi.optimizers import clip_gradients
from pyro_vae.svi.random_states import (
    are_same_states,
    get_random_states,
    set_random_states,
)
from pyro_vae.svi.updates import Update, check_optimizer, make_update
from pyro_vae.svi.watch import ModuleCalls, Watch, copy_buffers

MANY = 16  # graphs, from which an argument is likely to change at every step


class _Run(NamedTuple):
    """The results of one eager run of a pair.

    Attributes:
        loss: The loss, `()`.
        gradients: The gradient of each parameter. The order is that in which
            this run met the parameters; another one may meet them in another.
        names: The names of all parameters in Pyro's store.
        report: The estimator's report, if it is a `ReportingELBO`.
    """

    loss: Tensor
    gradients: dict[Tensor, Tensor]
    names: list[str]
    report: Tensor | None


class CompiledSVI:
    r"""`pyro.infer.SVI` whose step runs as one compiled graph.

    The pair is run once through Pyro's handlers while loss and gradients are
    recorded; the record is compiled by Inductor, and one fused kernel updates
    the parameters. The first step runs eagerly if it draws initial parameters.
    With the same seed the losses and parameters are those of `pyro.infer.SVI`,
    up to rounding; unlike there, a loss that is not finite raises, and the
    parameters stay as they were. Parameters stay where they are (in modules
    and in Pyro's param store), the optimizer's state in the optimizer.

    The pair must be static: the same sites, shapes and operations at every
    step. A structure that depends on a tensor's value is detected. Python and
    NumPy randomness, and state that changes at every run, are detected by
    recording twice and comparing. Not detected are rare branches that neither
    recording took, state that changes later (a global flag, a schedule held
    in a Python number: pass it as an argument), and Python side effects, which
    happen when recording only. An argument's new shape, dtype or Python value,
    a module's `train()` or `eval()`, a frozen parameter, and a parameter,
    buffer or submodule put in another's place compile anew. Compiled steps do
    not validate arguments and data as `pyro.enable_validation` has it.

    Args:
        model: A Pyro model: any callable.
        guide: Its guide.
        optim: `pyro.optim.Adam`, `AdamW` or `ClippedAdam`, or a torch
            optimizer over given parameters.
        loss: `Trace_ELBO` (by default), `TraceMeanField_ELBO`, `RenyiELBO`,
            `TraceEnum_ELBO` with parallel enumeration, or a `ReportingELBO`
            whose `can_be_compiled` is true, which gets its reports.
        precision: The precision of large float32 matrix products: `highest`,
            `high` or `medium` (on the CPU: bfloat16 products where the
            processor has them).
        clip_norm: The largest norm of all gradients together; by default they
            are left as they are.

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
        loss: ELBO | None = None,
        precision: str = "highest",
        clip_norm: float | None = None,
    ):
        check_optimizer(optim)
        self.model, self.guide, self.optim = model, guide, optim
        # ELBO does not declare what its subclasses have.
        self.loss: Any = Trace_ELBO() if loss is None else loss
        check_estimator(self.loss)
        self._reporter = loss if isinstance(loss, ReportingELBO) else None
        check_precision(precision)
        self.precision, self.clip_norm = precision, clip_norm
        self.num_compilations = 0
        self._programs: dict[tuple, Program] = {}
        self._params: list[Tensor] = []  # none before the first step
        self._watch = Watch([], [])
        self._update: Update | None = None

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes a gradient step on the loss and returns its estimate.

        Args:
            args: Arguments of the model and the guide: tensors, Python values,
                and lists, tuples and dictionaries of them.
            kwargs: The same, by name.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite; it names the
                site, and no parameter was touched.
            DynamicPairError: If the pair is found not to be static.
            CompilationError: If the machine cannot compile.
        """
        loss = self.step_tensor(*args, **kwargs)
        value = loss.item()
        if not math.isfinite(value):
            site = find_nonfinite_site(self.model, self.guide, *args, **kwargs)
            raise NonFiniteLossError(f"the loss is {value} {site}")
        return value

    def step_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes a step and returns the loss as a tensor, `()`.

        On CUDA nothing waits for the device, unless a torch optimizer was
        given. A loss that is not finite updates nothing and is returned.
        """
        with torch.no_grad():
            self._look()
            if not self._params:
                Arguments(args, kwargs, [])  # refuses bad ones, first of all
                first = self._discover(args, kwargs)
                if first is not None:
                    update = make_update(self.optim, list(first.gradients))
                    grads = list(first.gradients.values())
                    return _apply(update, first.loss, grads)
            program, tensors = self._program("step", args, kwargs)
            loss, *results = program(*self._params, *tensors)
            count = len(self._params)
            grads, reports = results[:count], results[count:]
            if self._reporter is not None:
                self._reporter.take_report(reports[0].clone())
            if self._update is None:
                self._update = make_update(self.optim, self._params)
            return _apply(self._update, loss, grads)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Returns an estimate of the loss; arguments as in `step`."""
        with torch.no_grad():
            self._look()
            if not self._params:
                loss = self.loss.loss(self.model, self.guide, *args, **kwargs)
                return float(loss)
            program, tensors = self._program("loss", args, kwargs)
            return program(*self._params, *tensors)[0].item()

    def _look(self) -> None:
        """Forgets the graphs if something they took for granted is gone."""
        if am_i_wrapped():
            raise ValueError(
                "the step runs inside a Pyro handler; expected it outside: "
                "put the handler around the model or the guide instead"
            )
        if not self._watch.holds():
            self._programs, self._params = {}, []
            self._watch, self._update = Watch([], []), None

    def _program(
        self, kind: str, args: tuple, kwargs: dict
    ) -> tuple[Program, list[Tensor]]:
        """Returns the graph for such arguments, and its tensors."""
        call = Arguments(args, kwargs, self._params)
        key = (kind, call.key, self._watch.modes())
        if key not in self._programs:
            record = self._record_step if kind == "step" else self._record_loss
            self._programs[key] = compile_graph(
                lambda *tensors: record(*call.rebuild(tensors)),
                [*self._params, *call.tensors],
                self.precision,
                self._watch.modules,
            )
            self.num_compilations += 1
            if self.num_compilations == MANY:
                warnings.warn(
                    f"{MANY} graphs have been compiled, one for each shape "
                    "and Python value of the arguments; pass a number that "
                    "changes as a tensor",
                    stacklevel=4,
                )
        return self._programs[key], call.tensors

    def _discover(self, args: tuple, kwargs: dict) -> _Run | None:
        """Runs eagerly, which makes the parameters, and learns of them.

        Returns:
            None, and the random numbers are given back, if a second run takes
            as many of them. Else the making of the parameters took some, and
            the first step has been this run.
        """
        states = get_random_states()
        with ModuleCalls(self.model, self.guide) as calls:
            first = self._run(args, kwargs)
        buffers = copy_buffers(calls.modules())
        states_after = get_random_states()
        set_random_states(states)
        second = self._run(args, kwargs)
        is_repeated = are_same_states(get_random_states(), states_after)
        if is_repeated:
            buffers = calls.buffers
        else:
            states = states_after
            if self._reporter is not None and first.report is not None:
                self._reporter.take_report(first.report)
        set_random_states(states)
        for buffer, value in buffers:
            buffer.copy_(value)
        self._watch = Watch(calls.modules(), first.names)
        self._params = list(second.gradients)
        return None if is_repeated else first

    def _run(self, args: tuple, kwargs: dict) -> _Run:
        """Runs the pair once, eagerly, and leaves no gradient behind."""
        with (
            torch.enable_grad(),
            poutine.trace(param_only=True) as capture,
        ):
            value = self.loss.loss_and_grads(
                self.model, self.guide, *args, **kwargs
            )
        # By identity: one parameter may be announced under several names.
        announced = dict.fromkeys(get_unconstrained(capture.trace))
        grads = {p: p.grad for p in announced if p.grad is not None}
        if not grads:
            raise ValueError(
                "no parameter has a gradient; expected pyro.param or "
                "pyro.module statements in the model or the guide"
            )
        clip_gradients(grads, self.clip_norm)
        for param in grads:
            param.grad = None
        loss = torch.as_tensor(value).to(next(iter(grads.values())))
        report = None if self._reporter is None else self._reporter.report()
        return _Run(loss, grads, list(capture.trace.nodes), report)

    def _record_step(self, args: tuple, kwargs: dict) -> list[Tensor]:
        """Returns the loss, each parameter's gradient, and the report, if any.

        Loss and gradients are as Pyro's estimator computes them.
        """
        for param in self._params:
            param.grad = None
        try:
            with torch.enable_grad():
                loss = self.loss.loss_and_grads(
                    self.model, self.guide, *args, **kwargs
                )
                clip_gradients(self._params, self.clip_norm)
            grads = [p.grad for p in self._params if p.grad is not None]
        finally:
            for param in self._params:
                param.grad = None
        if len(grads) < len(self._params):
            raise DynamicPairError(
                "a parameter that had a gradient at the first step has none "
                "now; expected a static pair: use pyro.infer.SVI"
            )
        reporter = self._reporter
        reports = [] if reporter is None else [reporter.report()]
        return [torch.as_tensor(loss), *grads, *reports]

    def _record_loss(self, args: tuple, kwargs: dict) -> list[Tensor]:
        with torch.no_grad():
            loss = self.loss.loss(self.model, self.guide, *args, **kwargs)
        return [torch.as_tensor(loss)]


def _apply(update: Update, loss: Tensor, grads: list[Tensor]) -> Tensor:
    """Updates the parameters, unless the loss is not finite; returns it."""
    if loss.is_cuda:
        update(grads, (~loss.isfinite()).to(torch.float32))
    elif math.isfinite(loss.item()):
        update(grads, None)
    return loss.clone()  # the next step writes where this one did
