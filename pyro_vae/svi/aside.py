"""Eager runs beside the steps, to compare a graph with."""

from collections.abc import Sequence

from torch import nn

from pyro_vae.svi.arguments import list_tensors
from pyro_vae.svi.pairs import End, Pair, Run, quietly
from pyro_vae.svi.reads import Reads
from pyro_vae.svi.traces import Traces, refuse_changes
from pyro_vae.svi.undo import Undo


def run_aside(
    pair: Pair,
    modules: Sequence[nn.Module],
    reads: Reads,
    args: tuple,
    kwargs: dict,
) -> Run:
    """Runs a pair eagerly, and puts everything back.

    Args:
        pair: The pair.
        modules: The modules that it calls.
        reads: What its code reads.
        args: The arguments of model and guide.
        kwargs: The same, by name.

    Raises:
        DynamicPairError: If it changes other things than at first.
    """
    buffers = [b for module in modules for b in module.buffers(False)]
    undo = Undo([args, kwargs, *buffers], reads.places.values())
    traces = Traces(reads.places, args, kwargs)
    try:
        with quietly():
            run = pair.run(args, kwargs)
        refuse_changes(traces.find_changes())
        run.end = End([*list_tensors((args, kwargs)), *reads.tensors, *buffers])
        return run
    finally:
        undo.restore()
