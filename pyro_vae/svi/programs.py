"""The graphs of a pair: found by what they took for granted, or recorded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from pyro import get_param_store
from torch import Tensor, nn

from pyro_vae.svi.arguments import Arguments, list_methods
from pyro_vae.svi.aside import run_aside
from pyro_vae.svi.compat import get_default_device
from pyro_vae.svi.graphs import Program, compile_graph
from pyro_vae.svi.hooks import set_aside
from pyro_vae.svi.numbers import Numbers, as_tensor
from pyro_vae.svi.options import MANY
from pyro_vae.svi.pairs import Compute, Pair, Run, listed
from pyro_vae.svi.random_states import get_random_states, set_random_states
from pyro_vae.svi.reads import Reads
from pyro_vae.svi.refusals import DynamicPairError
from pyro_vae.svi.rehearsal import Rehearsal, rehearse
from pyro_vae.svi.step import Step
from pyro_vae.svi.undo import Undo
from pyro_vae.svi.watch import Watch, autocast_dtype, list_settings


class Programs:
    """The graphs of a pair, and all that they take for granted.

    Args:
        pair: The pair.
        precision: The precision of large float32 products, as in `CompiledSVI`.
        patience: As in `compile_graph`.
        on_record: Called after a graph was recorded.

    Attributes:
        pair: The pair.
        params: The parameters that were announced so far.
        places: Their places among the inputs of a graph, by their ids, as
            `Arguments` wants them.
    """

    def __init__(
        self,
        pair: Pair,
        precision: str,
        patience: int,
        on_record: Callable[[], None],
    ):
        self.pair, self.precision, self.patience = pair, precision, patience
        self.params: list[Tensor] = []
        self.places: dict[int, int] = {}
        self._on_record = on_record
        self._steps: dict[Any, list[Step]] = {}
        self._losses: dict[Any, list[tuple[Program, int]]] = {}
        self._watch = Watch([], [])
        self._numbers = Numbers()
        self._functions: list[Callable] = []  # that came as arguments
        self._reads = Reads()

    def hold(self) -> bool:
        """Returns whether what all graphs take for granted still holds."""
        return self._watch.holds()

    def take_apart(self, args: tuple, kwargs: dict) -> Arguments:
        """Returns the arguments as graphs are found by them."""
        return Arguments(args, kwargs, self.places, self._numbers)

    def fix_numbers(self) -> bool:
        """Makes numbers that were inputs values again; whether there were."""
        self._reads.forget()
        return self._numbers.fix()

    def list_numbers(self, call: Arguments) -> tuple[float, ...]:
        """Returns the numbers that are inputs."""
        return (*call.numbers, *(value for _, value in self._reads.numbers))

    def find_step(self, call: Arguments) -> Step | None:
        """Returns the step for such arguments, if there is one.

        Of those for such arguments, one in which Python would read the same
        values as when it was recorded.

        Raises:
            DynamicPairError: If there are many, and none of them fits.
        """
        known = self._steps.get(self._key(call), [])
        for step in known:
            if self._fits(step.program, step.num_params, call):
                return step
        if len(known) >= MANY:  # says what has changed
            known[-1].program.check(self.list_inputs(known[-1], call))
        return None

    def _fits(self, program: Program, num_params: int, call: Arguments) -> bool:
        """Returns whether Python would read what a program took for granted."""
        return not program.has_checks or program.fits(
            self._inputs(call, num_params)
        )

    def find_loss(self, args: tuple, kwargs: dict) -> list[Tensor]:
        """Returns the losses, by a graph."""
        call = self.take_apart(args, kwargs)
        known = self._losses.setdefault(self._key(call), [])
        for program, num_params in known:
            if self._fits(program, num_params, call):
                states = get_random_states()
                losses = program.run(self._inputs(call, num_params))
                if all(loss.isfinite() for loss in losses):
                    self.validate(program, call, states)
                return losses
        if len(known) >= MANY:  # says what has changed
            program, num_params = known[-1]
            program.check(self._inputs(call, num_params))
        try:
            self.pair.learn_loss(args, kwargs)
            known.append((self._record_loss(call), len(self.params)))
        except DynamicPairError:
            if not self.fix_numbers():
                with torch.random.fork_rng():  # it may be the arguments' fault
                    self.pair.compute_loss(args, kwargs)
                raise
        return self.find_loss(args, kwargs)

    def run(self, step: Step, call: Arguments) -> list[Tensor]:
        """Returns the results of a step's program."""
        return step.program.run(self.list_inputs(step, call))

    def list_inputs(self, step: Step, call: Arguments) -> list[Tensor]:
        """Returns what a step's program takes."""
        return self._inputs(call, step.num_params)

    def validate(
        self, program: Program, call: Arguments, states: list[Tensor]
    ) -> None:
        """Raises what the pair does, eagerly, where a program is not valid.

        If it raises nothing, the program was off by a rounding.

        Args:
            program: The program, which has just run.
            call: The arguments that it ran on.
            states: The random states before it ran.
        """
        if program.is_valid:
            return
        after = get_random_states()
        set_random_states(states)
        given = call.rebuild(self.params, call.tensors, call.numbers)
        with set_aside([*self.list_candidates(), *call.tensors]):
            self.run_aside(*given)
        set_random_states(after)

    def rehearse(self, args: tuple, kwargs: dict) -> Rehearsal:
        """Runs the pair eagerly, and learns its parameters and modules."""
        rehearsal = rehearse(self.pair, self._watch.modules, args, kwargs)
        for param in rehearsal.run.announced:
            if id(param) not in self.places:
                self.params.append(param)
                self.places[id(param)] = -len(self.params)
        modules = dict.fromkeys([*self._watch.modules, *rehearsal.modules])
        names = dict.fromkeys([*self._watch.names, *rehearsal.run.names])
        self._watch = Watch(modules, names)
        methods = list_methods((args, kwargs))
        for function in (*self.take_apart(args, kwargs).functions, *methods):
            if function not in self._functions:
                self._functions.append(function)
        known: list[Callable] = [*modules, *self._functions]
        self._reads = self.pair.read(known, self._numbers)
        return rehearsal

    def run_aside(self, args: tuple, kwargs: dict) -> Run:
        """Runs the pair eagerly, and puts everything back."""
        return run_aside(
            self.pair, self._watch.modules, self._reads, args, kwargs
        )

    def list_candidates(self) -> list[Tensor]:
        """Returns the parameters that the pair may turn out to have."""
        stored = [p for _, p in get_param_store().named_parameters()]
        modules = dict.fromkeys([*self._list_read(), *self._watch.modules])
        return [*stored, *(p for m in modules for p in m.parameters(False))]

    def list_known(self) -> list[Tensor]:
        """Returns the parameters, before the first step those of modules."""
        return self.params or [
            p for m in self._list_read() for p in m.parameters(False)
        ]

    def _list_read(self) -> list[nn.Module]:
        """Returns the modules that the pair's code comes by."""
        return self._reads.modules or self.pair.read([]).modules

    def record_step(self, call: Arguments, rehearsal: Rehearsal) -> Step:
        """Records and compiles the step for such arguments.

        Raises:
            DynamicPairError: If the pair cannot be recorded.
            CompilationError: If the machine cannot compile.
        """
        run = rehearsal.run
        stepped = run.stepped

        def compute(args: tuple, kwargs: dict) -> list[Tensor]:
            again = self.pair.run(args, kwargs)
            gradients = again.by_parameter()
            if set(gradients) != set(stepped):
                raise DynamicPairError(
                    "other parameters have a gradient in a second run; "
                    "expected a static pair: use pyro.infer.SVI"
                )
            ordered = [gradients[param] for param in stepped]
            values = [place.get() for place in rehearsal.left]
            cut = {value: value.detach() for value in values}  # each one once
            left = [*map(cut.__getitem__, values)]
            reports = [] if again.report is None else [again.report]
            return [*again.losses, *ordered, *left, *reports]

        step = Step(
            self._record(compute, call),
            len(self.params),
            len(run.losses),
            stepped,
            run.announced,
            run.names,
            rehearsal.left,
            rehearsal.buffers,
            run.report is not None,
            self.list_numbers(call),
            rehearsal.num_backwards,
        )
        self._steps.setdefault(self._key(call), []).append(step)
        return step

    def _record_loss(self, call: Arguments) -> Program:
        def compute(args: tuple, kwargs: dict) -> list[Tensor]:
            losses = listed(self.pair.compute_loss(args, kwargs))
            return [torch.as_tensor(loss) for loss in losses]

        return self._record(compute, call)

    def _record(self, compute: Compute, call: Arguments) -> Program:
        """Compiles a function of the arguments, and leaves all as it was."""
        num_params, num_tensors = len(self.params), len(call.tensors)
        inputs = self._inputs(call)
        own = len(inputs) - len(self._reads.numbers)  # numbers in places
        first = own - len(call.numbers)

        def record(*tensors: Tensor) -> list[Tensor]:
            given = tensors[num_params : num_params + num_tensors]
            numbers = tensors[first:own]
            with self._kept_values():
                for (place, _), number in zip(
                    self._reads.numbers, tensors[own:], strict=True
                ):
                    place.put(number)
                return compute(
                    *call.rebuild(tensors[:num_params], given, numbers)
                )

        undo = Undo(inputs[num_params:], self._reads.places.values())
        modules = self._watch.modules
        try:
            program = compile_graph(
                record,
                inputs,
                self.precision,
                modules,
                self.patience,
            )
        finally:
            undo.restore()
        self._on_record()
        return program

    @contextmanager
    def _kept_values(self) -> Iterator[None]:
        """Puts the values in all places back afterwards."""
        undo = Undo([], self._reads.places.values(), has_tensors=False)
        try:
            yield
        finally:
            undo.restore_values()

    def _key(self, call: Arguments) -> Any:
        """Returns what a graph for such arguments is found by."""
        self._reads.look()
        return (
            call.key,
            tuple(map(call.place_of, self._reads.tensors)),
            self._watch.modes(),
            self._reads.token,
            list_settings(self.pair.loss),
            None if self.pair.shards.is_alone else self.pair.shards.part,
            torch.get_default_dtype(),
            get_default_device(),
            *map(autocast_dtype, ("cpu", "cuda")),
        )

    def _inputs(
        self, call: Arguments, num_params: int | None = None
    ) -> list[Tensor]:
        """Returns the parameters, the arguments, what the code reads, numbers.

        What it reads is that of the last look, which `_key` takes. Of the
        parameters, the first ones: others may be known since a recording.
        """
        read = self._reads.tensors
        others = [tensor for tensor in read if call.place_of(tensor) is None]
        numbers = self.list_numbers(call)
        tensors = [*self.params[:num_params], *call.tensors, *others]
        dtype = self._dtype() if numbers else torch.float32
        return tensors + [as_tensor(number, dtype) for number in numbers]

    def _dtype(self) -> torch.dtype:
        """Returns the dtype of the parameters, the widest one if several."""
        kinds = {p.dtype for p in self.params if p.is_floating_point()}
        return reduce(torch.promote_types, kinds, torch.get_default_dtype())
