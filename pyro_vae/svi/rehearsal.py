"""Eager runs of a pair, from which the recording of it is planned.

Two runs tell which parameters there are, whether the first one made them, and
what the pair changes in Python's objects. The results of the second one are
what the compiled step must give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pyro import get_param_store
from torch import Tensor, nn

from pyro_vae.svi.arguments import list_tensors
from pyro_vae.svi.hooks import counting_gradients
from pyro_vae.svi.pairs import End, Pair, Run, quietly
from pyro_vae.svi.places import Place
from pyro_vae.svi.random_states import are_same_states, get_random_states
from pyro_vae.svi.reads import Snapshot
from pyro_vae.svi.refusals import DynamicPairError
from pyro_vae.svi.traces import Traces, refuse_changes, refuse_iterators
from pyro_vae.svi.undo import Undo
from pyro_vae.svi.watch import ModuleCalls


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
        num_backwards: How often a parameter is given a gradient, at most.
        restore_all: Puts back what the runs have changed, and takes out what
            they have made.
    """

    first: Run
    run: Run
    is_step: bool
    left: list[Place]
    buffers: list[Tensor]
    modules: list[nn.Module]
    num_backwards: int
    restore_all: Callable[[], None]


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
    stage = _Stage(pair, modules, args, kwargs)
    try:
        return stage.run_twice()
    except BaseException:
        stage.restore_all()
        raise


class _Stage:
    """Two runs of a pair, and what is put back between and after them.

    Attributes:
        modules: The modules that are called.
        buffers: Their buffers, each with a copy of its value at the start.
    """

    def __init__(
        self,
        pair: Pair,
        modules: Sequence[nn.Module],
        args: tuple,
        kwargs: dict,
    ):
        self.pair, self.args, self.kwargs = pair, args, kwargs
        self._calls = ModuleCalls(pair.model, pair.guide, *modules)
        self._reads = pair.read(modules)
        for module in self._reads.modules:
            self._calls.note(module)
        self._was = Snapshot(self._reads.places)
        self._start = Undo([args, kwargs], self._reads.places.values())
        # The first run may make parameters, and attributes of other names.
        self._spaces = Undo([*self._reads.spaces, vars(get_param_store())])

    @property
    def modules(self) -> list[nn.Module]:
        return self._calls.modules()

    @property
    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        return self._calls.buffers

    def run_twice(self) -> Rehearsal:
        """Runs the pair, goes back, runs it again, and compares."""
        refuse_iterators(self._reads.places.values())
        first, states = self.run_first(), get_random_states()
        self.go_back()
        traces = Traces(self._reads_then.places, self.args, self.kwargs)
        with quietly(), counting_gradients(first.stepped) as counts:
            run = self.pair.run(self.args, self.kwargs)
        is_step = not are_same_states(get_random_states(), states)
        refuse_changes(traces.find_changes())
        left, is_made = self.compare()
        changed = [b for b, old in self.buffers if not torch.equal(b, old)]
        given = list_tensors((self.args, self.kwargs))
        read = self._reads_then.tensors
        run.end = End([*given, *read, *(buffer for buffer, _ in self.buffers)])
        is_step |= is_made
        if is_step:
            self.restore_to_first()
        else:
            self.restore()
        return Rehearsal(
            first,
            run,
            is_step,
            left,
            changed,
            self.modules,
            max(counts.values(), default=0),
            self.restore_all,
        )

    def run_first(self) -> Run:
        """Runs the pair for the first time.

        Raises:
            DynamicPairError: If it calls a module of TorchScript.
        """
        with self._calls:
            first = self.pair.run(self.args, self.kwargs)
        for module in self.modules:
            if isinstance(module, torch.jit.ScriptModule):
                raise DynamicPairError(
                    f"the model or guide calls {module.original_name}, which "
                    "torch.jit.script has compiled; expected the module that "
                    "it was made from: compiled steps need no TorchScript"
                )
        return first

    def go_back(self) -> None:
        """Goes back to the start, but for what the first run has made."""
        self._reads_then = self.pair.read(self.modules)
        self._then = Snapshot(self._reads_then.places)
        self._was.fill_in(self._reads, self._then)
        buffers = [buffer for buffer, _ in self.buffers]
        self._middle = Undo(
            [self.args, self.kwargs, *buffers],
            self._reads_then.places.values(),
        )
        self._start.restore_random_states()
        self._start.restore_tensors()
        self._restore_buffers()
        self._before = dict(self._then.values)
        for key, place in self._reads_then.places.items():
            was, then = self._was.values[key], self._then.values[key]
            if isinstance(was, Tensor) and isinstance(then, Tensor):
                place.put(was)
                self._before[key] = was

    def compare(self) -> tuple[list[Place], bool]:
        """Tells what the runs have put into Python's objects.

        Returns:
            The places where the second one left another tensor, and whether
            the first one made something that stays.
        """
        left, is_made = [], False
        for key, place in self._reads_then.places.items():
            value = place.get()
            if isinstance(value, Tensor):
                if value is not self._before[key]:
                    left.append(place)
                is_made |= not isinstance(self._was.values[key], Tensor)
            else:
                is_made |= self._was.frozen[key] != self._then.frozen[key]
        return left, is_made

    def restore(self) -> None:
        """Puts everything back to the start."""
        self._start.restore()
        self._restore_buffers()

    def restore_all(self) -> None:
        """Puts everything back, and takes out what the runs have made."""
        self._spaces.restore_tensors()
        self._spaces.restore_values()
        self.restore()

    def restore_to_first(self) -> None:
        """Puts everything back to the end of the first run."""
        self._middle.restore()

    def _restore_buffers(self) -> None:
        for buffer, value in self.buffers:
            buffer.copy_(value)
