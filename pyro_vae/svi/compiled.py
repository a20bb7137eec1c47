"""CompiledSVI: Pyro's SVI with its step compiled, for any static pair."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import get_param_store
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi.arguments import Arguments, list_tensors
from pyro_vae.svi.compat import am_i_wrapped
from pyro_vae.svi.eager import NonFiniteLossError, find_nonfinite_site
from pyro_vae.svi.estimator import ReportingELBO, make_recordable
from pyro_vae.svi.graphs import Program, compile_graph
from pyro_vae.svi.matmul import check_precision
from pyro_vae.svi.random_states import get_random_states, set_random_states
from pyro_vae.svi.reads import Place, Reads
from pyro_vae.svi.refusals import DynamicPairError
from pyro_vae.svi.rehearsal import (
    Pair,
    Rehearsal,
    Run,
    check_agreement,
    listed,
    quietly,
    rehearse,
)
from pyro_vae.svi.undo import Undo
from pyro_vae.svi.updates import Updates, check_optimizer, make_updates
from pyro_vae.svi.watch import Watch

MANY = 16  # graphs, from which an argument is likely to change at every step

Loss = Tensor | tuple[Tensor, ...]


@dataclass
class _Graph:
    """A compiled step.

    Attributes:
        program: Takes the parameters, the arguments' tensors and those that
            the code reads elsewhere; returns losses, gradients, what it leaves
            in places, and the report.
        num_params: The number of parameters that it takes.
        num_losses: The number of losses: one, or those of a tuple.
        stepped: The parameters that have a gradient.
        announced: Those that the pair announced, which the optimizer steps.
        left: The places where the pair leaves another tensor at every run.
        buffers: The buffers that it changes in place.
    """

    program: Program
    num_params: int
    num_losses: int
    stepped: list[Tensor]
    announced: list[Tensor]
    left: list[Place]
    buffers: list[Tensor]


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
        make_recordable(self.loss)
        self.num_compilations = 0
        self._num_steps = 0
        self._stepped: dict[Tensor, None] = {}  # parameters that have stepped
        self._updates: Updates | None = None
        self._forget()

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
        if isinstance(losses, tuple):
            values = [loss.item() for loss in losses]
        else:
            values = [losses.item()]
        if not all(map(math.isfinite, values)):
            site = find_nonfinite_site(self.model, self.guide, *args, **kwargs)
            raise NonFiniteLossError(f"the loss is {values[0]} {site}")
        return tuple(values) if isinstance(losses, tuple) else values[0]

    def step_tensor(self, *args: Any, **kwargs: Any) -> Loss:
        """Takes a step and returns the loss as a tensor, `()`.

        On CUDA nothing waits for the device, unless the optimizer is another
        than those that are the fastest. A loss that is not finite updates
        nothing and is returned.
        """
        with torch.no_grad():
            self._look()
            given = _set_aside(self._params)
            try:
                return self._step(given, args, kwargs)
            finally:
                for param, grad in given.items():  # those that are left
                    param.grad = grad

    def _step(
        self, given: dict[Tensor, Tensor], args: tuple, kwargs: dict
    ) -> Loss:
        """Takes a step; takes out of `given` what it has added."""
        call = Arguments(args, kwargs, self._params)
        key = self._key("step", call)
        graph, expected = self._graphs.get(key), None
        if graph is None:
            given |= _set_aside(self._list_candidates())
            rehearsal = self._rehearse(args, kwargs)
            if rehearsal.is_step:
                return self._finish_eagerly(rehearsal, given)
            call = Arguments(args, kwargs, self._params)
            key = self._key("step", call)
            graph = self._graphs[key] = self._compile(call, rehearsal)
            expected = rehearsal.run
        elif self.compare and _is_power_of_two(self._num_steps + 1):
            expected = self._run_aside(args, kwargs)
        return self._take_step(graph, call, expected, given)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Returns an estimate of the loss; arguments as in `step`."""
        with torch.no_grad():
            self._look()
            if not self._params:
                return self._pair().compute_loss(args, kwargs)
            call = Arguments(args, kwargs, self._params)
            key = self._key("loss", call)
            if key not in self._programs:
                self._programs[key] = self._compile_loss(call, args, kwargs)
            values = self._programs[key](*self._inputs(call))
            values = [value.item() for value in values]
            return values[0] if len(values) == 1 else tuple(values)

    def _pair(self) -> Pair:
        """Returns the pair, with the estimator as it is recorded."""
        return Pair(
            self.model,
            self.guide,
            make_recordable(self.loss),
            self.loss_and_grads,
            self.clip_norm,
        )

    def _forget(self) -> None:
        """Forgets the graphs and what they took for granted."""
        self._graphs: dict[Any, _Graph] = {}
        self._programs: dict[Any, Program] = {}  # of the loss alone
        self._params: list[Tensor] = []  # those that were announced so far
        self._watch = Watch([], [])
        self._reads = Reads()
        self._code = (self.model, self.guide, self.loss, self.loss_and_grads)

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
        if not self._watch.holds() or any(
            new is not old for new, old in zip(code, self._code, strict=True)
        ):
            self._forget()

    def _key(self, kind: str, call: Arguments) -> Any:
        """Returns what a graph for such a call is found by."""
        read = self._reads.list_tensors()
        places = [call.place_of(tensor) for tensor in read]
        return (
            kind,
            call.key,
            tuple(places),
            self._watch.modes(),
            self._reads.token(),
            _settings(self.loss),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu"),
            torch.is_autocast_enabled("cuda")
            and torch.get_autocast_dtype("cuda"),
        )

    def _inputs(self, call: Arguments) -> list[Tensor]:
        """Returns the parameters, the arguments, and what the code reads."""
        read = self._reads.list_tensors()
        others = [tensor for tensor in read if call.place_of(tensor) is None]
        return [*self._params, *call.tensors, *others]

    def _rehearse(self, args: tuple, kwargs: dict) -> Rehearsal:
        """Runs the pair eagerly, and learns its parameters and modules."""
        pair = self._pair()
        rehearsal = rehearse(pair, self._watch.modules, args, kwargs)
        known = dict.fromkeys(self._params)
        self._params += [p for p in rehearsal.run.announced if p not in known]
        modules = dict.fromkeys([*self._watch.modules, *rehearsal.modules])
        names = dict.fromkeys([*self._watch.names, *rehearsal.run.names])
        self._watch = Watch(modules, names)
        self._reads = pair.read(modules)
        return rehearsal

    def _list_candidates(self) -> list[Tensor]:
        """Returns the parameters that the pair may turn out to have."""
        stored = get_param_store().named_parameters()
        modules = self._pair().read(self._watch.modules).modules
        return [
            *(param for _, param in stored),
            *(param for m in modules for param in m.parameters(False)),
        ]

    def _finish_eagerly(
        self, rehearsal: Rehearsal, given: dict[Tensor, Tensor]
    ) -> Loss:
        """Takes the step that an eager run has computed already."""
        run = rehearsal.first
        if isinstance(self.loss, ReportingELBO) and run.report is not None:
            self.loss.take_report(run.report)
        self._update(run.announced, run.gradients, given, run.losses)
        self._num_steps += 1
        return _unpack(run.losses)

    def _run_aside(self, args: tuple, kwargs: dict) -> Run:
        """Runs the pair eagerly, and puts everything back."""
        pair = self._pair()
        buffers = [b for m in self._watch.modules for b in m.buffers(False)]
        given = list_tensors((args, kwargs))
        undo = Undo(
            [*given, *buffers, *self._reads.list_tensors()],
            self._reads.places.values(),
        )
        try:
            with quietly():
                return pair.run(args, kwargs)
        finally:
            undo.restore()

    def _compile(self, call: Arguments, rehearsal: Rehearsal) -> _Graph:
        """Records and compiles the step for a call."""
        pair, run = self._pair(), rehearsal.run
        stepped = list(run.gradients)
        num_params, num_tensors = len(self._params), len(call.tensors)

        def record(*tensors: Tensor) -> list[Tensor]:
            undo = Undo([], self._reads.places.values())
            args, kwargs = call.rebuild(
                tensors[:num_params],
                tensors[num_params : num_params + num_tensors],
            )
            try:
                again = pair.run(args, kwargs)
                left = [place.get().detach() for place in rehearsal.left]
            finally:
                undo.restore_values()
            if set(again.gradients) != set(stepped):
                raise DynamicPairError(
                    "other parameters have a gradient in a second run; "
                    "expected a static pair: use pyro.infer.SVI"
                )
            gradients = [again.gradients[param] for param in stepped]
            reports = [] if again.report is None else [again.report]
            return [*again.losses, *gradients, *left, *reports]

        return _Graph(
            self._record(record, call),
            num_params,
            len(run.losses),
            stepped,
            run.announced,
            rehearsal.left,
            rehearsal.buffers,
        )

    def _compile_loss(
        self, call: Arguments, args: tuple, kwargs: dict
    ) -> Program:
        pair = self._pair()
        num_params, num_tensors = len(self._params), len(call.tensors)

        def record(*tensors: Tensor) -> list[Tensor]:
            args, kwargs = call.rebuild(
                tensors[:num_params],
                tensors[num_params : num_params + num_tensors],
            )
            losses = listed(pair.compute_loss(args, kwargs))
            return [torch.as_tensor(loss) for loss in losses]

        return self._record(record, call)

    def _record(
        self, function: Callable[..., list[Tensor]], call: Arguments
    ) -> Program:
        """Compiles a function of the inputs, which are left as they were."""
        inputs = self._inputs(call)
        undo = Undo(inputs[len(self._params) :], self._reads.places.values())
        modules = self._watch.modules
        try:
            program = compile_graph(function, inputs, self.precision, modules)
        finally:
            undo.restore()
        self.num_compilations += 1
        if self.num_compilations == MANY:
            warnings.warn(
                f"{MANY} graphs have been compiled, one for each shape and "
                "Python value that the pair reads; pass a number that changes "
                "as a tensor",
                stacklevel=6,
            )
        return program

    def _take_step(
        self,
        graph: _Graph,
        call: Arguments,
        expected: Run | None,
        given: dict[Tensor, Tensor],
    ) -> Loss:
        """Runs a graph, compares its results if asked to, and updates."""
        states = None if expected is None else get_random_states()
        before = [buffer.clone() for buffer in graph.buffers]
        inputs = self._inputs(call)
        inputs = [*inputs[: graph.num_params], *inputs[len(self._params) :]]
        results = list(graph.program(*inputs))
        losses = results[: graph.num_losses]
        at = graph.num_losses + len(graph.stepped)
        gradients = dict(
            zip(graph.stepped, results[graph.num_losses : at], strict=True)
        )
        left, report = results[at:], None
        if isinstance(self.loss, ReportingELBO):
            report = left.pop()
        if expected is not None:
            try:
                check_agreement(expected, losses, gradients, self.precision)
            except DynamicPairError:
                set_random_states(states or [])
                for buffer, value in zip(graph.buffers, before, strict=True):
                    buffer.copy_(value)
                raise
        is_finite = self._update(graph.announced, gradients, given, losses)
        for buffer, value in zip(graph.buffers, before, strict=True):
            buffer.copy_(torch.where(is_finite, buffer, value))
        if isinstance(self.loss, ReportingELBO) and report is not None:
            self.loss.take_report(report.clone())
        for place, tensor in zip(graph.left, left, strict=True):
            place.put(tensor.clone())
        self._num_steps += 1
        # The next step writes where this one did.
        return _unpack([loss.clone() for loss in losses])

    def _update(
        self,
        announced: Sequence[Tensor],
        gradients: dict[Tensor, Tensor],
        given: dict[Tensor, Tensor],
        losses: Sequence[Tensor],
    ) -> Tensor:
        """Updates the parameters, unless a loss is not finite.

        A parameter that has stepped before steps also without a gradient, by
        its moments, as under `pyro.infer.SVI`, which leaves zeros in its
        gradient.

        Returns:
            Whether the losses are finite, `()`.
        """
        if self._updates is None or self._updates.optim is not self.optim:
            self._updates = make_updates(self.optim)
        is_finite = torch.stack([loss.isfinite() for loss in losses]).all()
        if not is_finite.is_cuda and not is_finite:
            return is_finite
        gradients = self._add_given(announced, gradients, given)
        self._stepped.update(dict.fromkeys(gradients))
        stepping = [param for param in announced if param in self._stepped]
        grads = [
            gradients[param] if param in gradients else torch.zeros_like(param)
            for param in stepping
        ]
        skip = (~is_finite).to(torch.float32) if is_finite.is_cuda else None
        self._updates.step(self._updates.add(stepping), grads, skip)
        return is_finite

    def _add_given(
        self,
        announced: Sequence[Tensor],
        gradients: dict[Tensor, Tensor],
        given: dict[Tensor, Tensor],
    ) -> dict[Tensor, Tensor]:
        """Adds the gradients that a `backward` of the user's has left."""
        adding = [param for param in announced if param in given]
        if self.clip_norm is not None and any(given[p].any() for p in adding):
            raise ValueError(
                "parameters have a gradient of their own before the step, and "
                "clip_norm is given; expected one of the two: add the penalty "
                "to the model by pyro.factor"
            )
        added = {p: gradients.get(p, 0) + given.pop(p) for p in adding}
        return {**gradients, **added}


def _set_aside(params: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """Takes the gradients of parameters away, and returns them."""
    given = {p: p.grad for p in params if p.grad is not None}
    for param in given:
        param.grad = None
    return given


def _autocast(device: str) -> torch.dtype | None:
    is_on = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on else None


def _settings(loss: object) -> Any:
    """Returns the numbers and strings that an estimator is set to."""
    return tuple(
        (name, value)
        for name, value in getattr(loss, "__dict__", {}).items()
        if isinstance(value, bool | int | float | str)
    )


def _unpack(losses: Sequence[Tensor]) -> Loss:
    return losses[0] if len(losses) == 1 else tuple(losses)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
