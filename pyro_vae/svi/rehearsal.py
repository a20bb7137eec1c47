"""Eager runs of a pair, from which the recording of it is planned.

Two runs tell which parameters there are, whether the first one made them, and
what the pair changes in Python's objects. The results of the second one are
what the compiled step must give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_vae.svi.arguments import list_tensors
from pyro_vae.svi.pairs import Pair, Run, quietly
from pyro_vae.svi.places import Place
from pyro_vae.svi.random_states import are_same_states, get_random_states
from pyro_vae.svi.reads import freeze
from pyro_vae.svi.refusals import DynamicPairError
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
    stage = _Stage(pair, modules, args, kwargs)
    first, states = stage.run_first(), get_random_states()
    stage.go_back()
    with quietly():
        run = pair.run(args, kwargs)
    is_made = not are_same_states(get_random_states(), states)
    left, made, faults = stage.compare()
    changed = [b for b, value in stage.buffers if not torch.equal(b, value)]
    if faults:
        stage.restore()
        raise DynamicPairError(
            f"the model or guide changes {', '.join(faults)} in every run, "
            "which a compiled step would not do; expected a pair that changes "
            "nothing but tensors: use pyro.infer.SVI"
        )
    is_step = is_made or made
    if is_step:
        stage.restore_to_first()
    else:
        stage.restore()
    return Rehearsal(first, run, is_step, left, changed, stage.modules)


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
        self._was = self._reads.snapshot()
        self._given = list_tensors((args, kwargs))
        self._start = Undo(
            [*self._given, *self._reads.tensors],
            self._reads.places.values(),
        )

    @property
    def modules(self) -> list[nn.Module]:
        return self._calls.modules()

    @property
    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        return self._calls.buffers

    def run_first(self) -> Run:
        """Runs the pair for the first time.

        Raises:
            DynamicPairError: If it calls a module of TorchScript.
        """
        with self._calls:
            first = self.pair.run(self.args, self.kwargs)
        for module in self.modules:
            if isinstance(module, torch.jit.ScriptModule):
                self.restore()
                raise DynamicPairError(
                    f"the model or guide calls {module.original_name}, which "
                    "torch.jit.script has compiled; expected the module that "
                    "it was made from: compiled steps need no TorchScript"
                )
        return first

    def go_back(self) -> None:
        """Goes back to the start, but for what the first run has made."""
        self._reads_then = self.pair.read(self.modules)
        self._then = self._reads_then.snapshot()
        self._was.fill_in(self._reads, self._then)
        buffers = [buffer for buffer, _ in self.buffers]
        self._middle = Undo(
            [*self._given, *self._reads_then.tensors, *buffers],
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

    def compare(self) -> tuple[list[Place], bool, list[str]]:
        """Tells what the second run has done to Python's objects.

        Returns:
            The places where it left another tensor, whether the first run
            made something that stays, and the names of what each run changes.
        """
        left, is_made, faults = [], False, []
        for key, place in self._reads_then.places.items():
            value = place.get()
            if isinstance(value, Tensor):
                if value is not self._before[key]:
                    left.append(place)
                is_made |= not isinstance(self._was.values[key], Tensor)
            elif freeze(value) != self._then.frozen[key]:
                faults.append(place.label)
            else:
                is_made |= self._was.frozen[key] != self._then.frozen[key]
        return left, is_made, faults

    def restore(self) -> None:
        """Puts everything back to the start."""
        self._start.restore()
        self._restore_buffers()

    def restore_to_first(self) -> None:
        """Puts everything back to the end of the first run."""
        self._middle.restore()

    def _restore_buffers(self) -> None:
        for buffer, value in self.buffers:
            buffer.copy_(value)
