"""Eager runs of a pair, from which the recording of it is planned and checked.

Two runs tell which parameters there are, whether the first one made them, and
what the pair changes in Python's objects. The results of the second one are
what the compiled step must give.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.svi.arguments import list_tensors
from pyro_vae.svi.compat import get_unconstrained
from pyro_vae.svi.estimator import ReportingELBO
from pyro_vae.svi.optimizers import clip_gradients
from pyro_vae.svi.random_states import are_same_states, get_random_states
from pyro_vae.svi.reads import Place, Reads, freeze, is_foreign
from pyro_vae.svi.refusals import DynamicPairError
from pyro_vae.svi.undo import Undo
from pyro_vae.svi.watch import ModuleCalls


@dataclass
class Run:
    """The results of one run of a pair.

    Attributes:
        losses: The loss, `()`, or several.
        gradients: The gradient of each parameter that has one.
        announced: All parameters that the pair announced.
        names: Their names in Pyro's store.
        report: The estimator's report, if it is a `ReportingELBO`.
    """

    losses: list[Tensor]
    gradients: dict[Tensor, Tensor]
    announced: list[Tensor]
    names: list[str]
    report: Tensor | None


@dataclass
class Pair:
    """A model and a guide with the estimator of their loss.

    Attributes:
        model: A Pyro model.
        guide: Its guide.
        loss: An estimator, or a function.
        loss_and_grads: A function that also computes gradients, or None.
        clip_norm: The largest norm of all gradients together, or None.
    """

    model: Callable
    guide: Callable
    loss: Any
    loss_and_grads: Callable | None
    clip_norm: float | None

    def run(self, args: tuple, kwargs: dict) -> Run:
        """Computes losses and gradients, and leaves no gradient behind.

        Raises:
            ValueError: If no parameter has a gradient.
        """
        with torch.enable_grad(), poutine.trace(param_only=True) as capture:
            value = self._compute(args, kwargs)
            # By identity: one parameter may have several names.
            announced = list(dict.fromkeys(get_unconstrained(capture.trace)))
        clip_gradients(announced, self.clip_norm)
        grads = {p: p.grad for p in announced if p.grad is not None}
        for param in announced:
            param.grad = None
        if not grads:
            raise ValueError(
                "no parameter has a gradient; expected pyro.param or "
                "pyro.module statements in the model or the guide"
            )
        like = next(iter(grads.values()))
        losses = [torch.as_tensor(v).detach().to(like) for v in listed(value)]
        report = None
        if isinstance(self.loss, ReportingELBO):
            report = self.loss.report()
        names = list(capture.trace.nodes)
        return Run(losses, grads, announced, names, report)

    def read(self, modules: Iterable[nn.Module]) -> Reads:
        """Reads the pair's code, and that of modules and of the estimator."""
        own = [] if is_foreign(type(self.loss).__module__) else [self.loss]
        return Reads(self.model, self.guide, *own, *modules)

    def compute_loss(self, args: tuple, kwargs: dict) -> Any:
        """Computes the loss, or a tuple of losses, without gradients."""
        function = getattr(self.loss, "loss", self.loss)
        return function(self.model, self.guide, *args, **kwargs)

    def _compute(self, args: tuple, kwargs: dict) -> Any:
        call = (self.model, self.guide, *args)
        both = getattr(self.loss, "loss_and_grads", self.loss_and_grads)
        if both is not None:
            return both(*call, **kwargs)
        loss = self.loss(*call, **kwargs)
        if getattr(loss, "requires_grad", False):
            loss.backward()
        return loss


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps warnings to itself, of a run that repeats another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def listed(losses: Any) -> list[Any]:
    """Returns the losses as a list: one, or the entries of a tuple."""
    return list(losses) if isinstance(losses, tuple) else [losses]


@dataclass
class Rehearsal:
    """What two eager runs of a pair have told.

    Attributes:
        first: The results of the first run.
        run: The results of the second one.
        is_step: Whether the first run made something, such as parameters, so
            that it has to be the step itself.
        left: The places in which each run leaves another tensor.
        buffers: The buffers that each run changes in place.
        modules: The modules that are called.
    """

    first: Run
    run: Run
    is_step: bool
    left: list[Place]
    buffers: list[Tensor]
    modules: list[nn.Module]


def rehearse(
    pair: Pair, modules: Sequence[nn.Module], args: tuple, kwargs: dict
) -> Rehearsal:
    """Runs a pair twice, and puts back what should not stay.

    Afterwards everything is as before, or, where the first run has to be the
    step, as after the first run.

    Args:
        pair: The pair.
        modules: Modules that are known to be called.
        args: The arguments of model and guide.
        kwargs: The same, by name.

    Raises:
        DynamicPairError: If every run changes a Python object. Then everything
            is as before.
    """
    reads = pair.read(modules)
    given, was = list_tensors((args, kwargs)), reads.snapshot()
    start = Undo([*given, *reads.list_tensors()], reads.places.values())
    with ModuleCalls(pair.model, pair.guide) as calls:
        for module in modules:
            calls.note(module)
        first = pair.run(args, kwargs)
    refuse_scripted(calls.modules(), start)
    states = get_random_states()
    reads_then = pair.read([*modules, *calls.modules()])
    then = reads_then.snapshot()
    was.fill_in(reads, then)
    buffers = [buffer for buffer, _ in calls.buffers]
    middle = Undo(
        [*given, *reads_then.list_tensors(), *buffers],
        reads_then.places.values(),
    )
    # The second run starts as the first one did, but for what that one made.
    start.restore_random_states()
    start.restore_tensors()
    for buffer, value in calls.buffers:
        buffer.copy_(value)
    before = dict(then.values)
    for key, place in reads_then.places.items():
        if all(isinstance(s.values[key], Tensor) for s in (was, then)):
            place.put(was.values[key])
            before[key] = was.values[key]
    with quietly():
        run = pair.run(args, kwargs)
    left, faults = [], []
    is_made = not are_same_states(get_random_states(), states)
    for key, place in reads_then.places.items():
        value = place.get()
        if isinstance(value, Tensor):
            if value is not before[key]:
                left.append(place)
            is_made |= not isinstance(was.values[key], Tensor)
        elif freeze(value) != then.frozen[key]:
            faults.append(place.label)
        else:
            is_made |= was.frozen[key] != then.frozen[key]
    changed = [b for b, value in calls.buffers if not torch.equal(b, value)]
    if is_made and not faults:
        middle.restore()
    else:
        start.restore()  # first of all the values that the second run made
        for buffer, value in calls.buffers:
            buffer.copy_(value)
    if faults:
        raise DynamicPairError(
            f"the model or guide changes {', '.join(faults)} in every run, "
            "which a compiled step would not do; expected a pair that changes "
            "nothing but tensors: use pyro.infer.SVI"
        )
    return Rehearsal(first, run, is_made, left, changed, calls.modules())


def refuse_scripted(modules: Sequence[nn.Module], start: Undo) -> None:
    """Refuses modules of TorchScript, which cannot be recorded twice."""
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            start.restore()
            raise DynamicPairError(
                f"the model or guide calls {module.original_name}, which "
                "torch.jit.script has compiled; expected the module that it "
                "was made from: compiled steps need no TorchScript"
            )


def check_agreement(
    expected: Run,
    losses: Sequence[Tensor],
    gradients: Mapping[Tensor, Tensor],
    precision: str,
) -> None:
    """Compares the results of a graph with those of an eager run.

    Rounding makes a difference of its own, which grows with the number of
    operations: what is found is another loss, and not another rounding.

    Raises:
        DynamicPairError: If they are not the same.
    """
    same_parameters = set(expected.gradients) == set(gradients)
    pairs = [*zip(expected.losses, losses, strict=True)]
    if same_parameters:
        pairs += [(g, gradients[p]) for p, g in expected.gradients.items()]
    finite = all(bool(value.isfinite().all()) for value, _ in pairs)
    if not finite:
        return  # the step raises, and says where
    tolerance = _tolerance(expected.losses[0].dtype, precision)
    largest = max(float(value.abs().max()) for value, _ in pairs[1:])
    off = [
        float((value - other).abs().max())
        / max(float(value.abs().max()), 1e-3 * largest, 1e-30)
        for value, other in pairs
        if value.numel()
    ]
    if not same_parameters or not max(off) <= tolerance:
        raise DynamicPairError(
            f"the compiled step and an eager one differ: their losses are "
            f"{float(losses[0]):.6g} and {float(expected.losses[0]):.6g}, and "
            f"their gradients differ by up to {max(off):.2g} of their size: "
            "the pair depends on something that has changed in Python: "
            "pass it as an argument, or use pyro.infer.SVI"
        )


def _tolerance(dtype: torch.dtype, precision: str) -> float:
    """Returns how far two computations may differ by rounding, relatively."""
    if precision != "highest" or torch.is_autocast_enabled("cpu"):
        return 0.3
    return 1e-4 if dtype == torch.float64 else 2e-2
