"""CompiledSVI: Pyro's SVI with its step compiled, for any static pair."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
)
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi.arguments import Arguments
from pyro_vae.svi.clipping import clip_gradients
from pyro_vae.svi.eager import NonFiniteLossError, find_nonfinite_site
from pyro_vae.svi.graphs import (
    DynamicPairError,
    Program,
    buffer_copies,
    compile,
)
from pyro_vae.svi.matmul import PRECISIONS
from pyro_vae.svi.optimizers import Update, check_optimizer, make_update
from pyro_vae.svi.watch import ModuleCalls, Watch

MANY = 16  # graphs, from which an argument is likely to change at every step
Gradients = dict[Tensor, Tensor]  # of each parameter

LOSSES = (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO, TraceEnum_ELBO)


def can_compile(loss: ELBO) -> bool:
    """Whether a loss is one of `LOSSES`, or says that it can be recorded."""
    return type(loss) in LOSSES or getattr(loss, "can_be_compiled", False)


class CompiledSVI:
    r"""`pyro.infer.SVI` whose step runs as one compiled graph.

    The pair is run once through Pyro's handlers while loss and gradients are
    recorded; the record is compiled by Inductor, and one fused kernel updates
    the parameters. The first step runs eagerly if it draws initial parameters.
    With the same seed the losses and parameters are those of `pyro.infer.SVI`,
    up to rounding; unlike there, a loss that is not finite raises, and the
    parameters stay as they were. Parameters stay where they are (in modules
    and in Pyro's param store), the optimiser's state in the optimiser.

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
            optimiser over given parameters.
        loss: `Trace_ELBO` (by default), `TraceMeanField_ELBO`, `RenyiELBO`,
            `TraceEnum_ELBO` with parallel enumeration, or an estimator whose
            `can_be_compiled` is true. If it has an `elbo`, a tensor that each
            `loss_and_grads` sets, that is kept up to date.
        precision: Of large float32 matrix products: `highest`, `high` or
            `medium` (on the CPU: bfloat16 products where the processor has
            them).
        clip_norm: The largest norm of all gradients together; by default they
            are left as they are.

    Attributes:
        num_compilations: How many graphs have been compiled.

    Raises:
        ValueError: For an optimiser, a loss or a precision that it cannot take.
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
        self.loss = Trace_ELBO() if loss is None else loss
        if not can_compile(self.loss):
            names = ", ".join(kind.__name__ for kind in LOSSES)
            inner = getattr(self.loss, "estimator", self.loss)
            raise ValueError(
                f"the loss is {type(inner).__name__}; expected one of "
                f"{names}: use pyro.infer.SVI for another one"
            )
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision is {precision!r}; expected one of "
                f"{', '.join(PRECISIONS)}"
            )
        self.precision, self.clip_norm = precision, clip_norm
        self.num_compilations = 0
        self._forget()

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes a gradient step on the loss and returns its estimate.

        Args:
            args, kwargs: Go to the model and the guide: tensors, Python
                values, and lists, tuples and dictionaries of them.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite; it names the
                site, and no parameter was touched.
            DynamicPairError: If the pair is found not to be static.
            CompilationError: If the machine cannot compile.
        """
        loss = self.step_tensor(*args, **kwargs)
        value = loss.item()
        if not math.isfinite(value):
            self._raise(value, args, kwargs)
        return value

    def step_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes a step and returns the loss as a tensor, `()`.

        On CUDA nothing waits for the device, unless a torch optimiser was
        given. A loss that is not finite updates nothing and is returned.
        """
        with torch.no_grad():
            self._look()
            first = None
            if self._watch is None:
                Arguments(args, kwargs, [])  # refuses bad ones, first of all
                first = self._discover(args, kwargs)
            if first is None:
                program, tensors = self._program("step", args, kwargs)
                loss, *grads = program(*self._params, *tensors)
                if len(grads) > len(self._params):
                    self.loss.elbo = grads.pop().clone()
                if self._update is None:
                    self._update = make_update(self.optim, self._params)
                update = self._update
            else:
                loss, gradients = first
                grads = list(gradients.values())
                update = make_update(self.optim, list(gradients))
            if loss.is_cuda:
                skip = (~loss.isfinite()).to(torch.float32)
            elif math.isfinite(loss.item()):
                skip = None
            else:
                return loss
            update(grads, skip)
        return loss.clone()  # the next step writes where this one did

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Returns an estimate of the loss; arguments as in `step`."""
        with torch.no_grad():
            self._look()
            if self._watch is None:
                loss = self.loss.loss(self.model, self.guide, *args, **kwargs)
                return float(loss)
            program, tensors = self._program("loss", args, kwargs)
            return program(*self._params, *tensors)[0].item()

    def _look(self) -> None:
        """Forgets the graphs if something they took for granted is gone."""
        if poutine.runtime.am_i_wrapped():
            raise ValueError(
                "the step runs inside a Pyro handler; expected it outside: "
                "put the handler around the model or the guide instead"
            )
        if self._watch is not None and not self._watch.holds():
            self._forget()

    def _program(
        self, kind: str, args: tuple, kwargs: dict
    ) -> tuple[Program, list[Tensor]]:
        """Returns the graph for such arguments, and its tensors."""
        call = Arguments(args, kwargs, self._params)
        key = (kind, call.key, self._watch.modes())
        if key not in self._programs:
            record = self._record_step if kind == "step" else self._record_loss
            self._programs[key] = compile(
                lambda *tensors: record(*call.rebuild(tensors)),
                [*self._params, *call.tensors],
                self.precision,
                [module for module, *_ in self._watch.modules],
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

    def _discover(
        self, args: tuple, kwargs: dict
    ) -> tuple[Tensor, Gradients] | None:
        """Runs eagerly, which makes the parameters, and learns of them.

        Returns:
            None, and the random numbers are given back, if a second run takes
            as many of them. Else the making of the parameters took some, and
            the first step has been this one: its loss and gradients, each
            with its parameter.
        """
        states = _get_random_states()
        with ModuleCalls(self.model, self.guide) as calls:
            loss, grads, names = self._run(args, kwargs)
        buffers = buffer_copies(calls.modules())
        states_after = _get_random_states()
        _set_random_states(states)
        _, later, _ = self._run(args, kwargs)
        result = None
        if _same_states(_get_random_states(), states_after):
            buffers = calls.buffers
        else:
            result, states = (loss, grads), states_after
        _set_random_states(states)
        for buffer, value in buffers:
            buffer.copy_(value)
        self._params = list(later)
        self._watch = Watch(calls.modules(), names)
        return result

    def _run(
        self, args: tuple, kwargs: dict
    ) -> tuple[Tensor, Gradients, list[str]]:
        """Returns the loss, each parameter's gradient, and all their names.

        The order is that in which this run met the parameters: another run
        may meet them in another one.
        """
        with (
            torch.enable_grad(),
            poutine.trace(param_only=True) as capture,
        ):
            value = self.loss.loss_and_grads(
                self.model, self.guide, *args, **kwargs
            )
        sites = capture.trace.nodes
        params = [site["value"].unconstrained() for site in sites.values()]
        # By identity: one parameter may be announced under several names.
        params = {id(p): p for p in params if p.grad is not None}.values()
        if not params:
            raise ValueError(
                "no parameter has a gradient; expected pyro.param or "
                "pyro.module statements in the model or the guide"
            )
        clip_gradients(params, self.clip_norm)
        # Tensors hash by identity.
        grads: Gradients = {param: param.grad for param in params}
        for param in params:
            param.grad = None
        loss = torch.as_tensor(value).to(next(iter(grads.values())))
        return loss, grads, list(sites)

    def _record_step(self, args: tuple, kwargs: dict) -> list[Tensor]:
        """The loss, its gradients, as Pyro's estimator computes them, and
        the ELBO where the estimator reports it.
        """
        for param in self._params:
            param.grad = None
        try:
            with torch.enable_grad():
                loss = self.loss.loss_and_grads(
                    self.model, self.guide, *args, **kwargs
                )
                clip_gradients(self._params, self.clip_norm)
            grads = [param.grad for param in self._params]
        finally:
            for param in self._params:
                param.grad = None
        if any(grad is None for grad in grads):
            raise DynamicPairError(
                "a parameter that had a gradient at the first step has none "
                "now; expected a static pair: use pyro.infer.SVI"
            )
        reports = [self.loss.elbo] if hasattr(self.loss, "elbo") else []
        return [torch.as_tensor(loss), *grads, *reports]

    def _record_loss(self, args: tuple, kwargs: dict) -> list[Tensor]:
        with torch.no_grad():
            loss = self.loss.loss(self.model, self.guide, *args, **kwargs)
        return [torch.as_tensor(loss)]

    def _raise(self, value: float, args: tuple, kwargs: dict) -> None:
        site = find_nonfinite_site(self.model, self.guide, *args, **kwargs)
        raise NonFiniteLossError(f"the loss is {value} {site}")

    def _forget(self) -> None:
        self._programs: dict[tuple, Program] = {}
        self._params: list[Tensor] = []
        self._watch: Watch | None = None
        self._update: Update | None = None


def _get_random_states() -> list[Tensor]:
    if not torch.cuda.is_initialized():
        return [torch.get_rng_state()]
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def _same_states(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def _set_random_states(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
