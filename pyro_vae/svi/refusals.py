"""What cannot be recorded, and the sentences that say so, with their lines."""

import traceback
from collections.abc import Iterator
from sys import _getframe as get_frame
from types import TracebackType
from typing import Any

import torch
from torch import fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.places import is_foreign
from pyro_vae.svi.record import read_example

ADVICE = "use torch.where, poutine.mask and the like, or pyro.infer.SVI"


class DynamicPairError(ValueError):
    """A pair's structure depends on values or on chance."""


class CompilationError(OSError):
    """A graph could not be compiled on this machine."""


def refuse_dynamic(graph: fx.Graph) -> None:
    """Refuses a record in which the shape of a result depends on values.

    Raises:
        DynamicPairError: If there is such a result, or a generator of the
            user's own, whose draws a graph would not repeat.
    """
    for node in graph.nodes:
        is_index = node.target is aten.index.Tensor
        if node.target is aten.masked_select.default or (
            is_index and any(map(_is_mask, node.args[1]))
        ):
            raise DynamicPairError(
                f"the model or guide takes entries by a mask, whose number "
                f"depends on values; expected a static pair: {ADVICE}"
            )
        if node.kwargs.get("generator") is not None:
            raise DynamicPairError(
                "the model or guide draws from a torch.Generator of its own; "
                "expected draws from torch's global generator: use "
                "torch.manual_seed, or pyro.infer.SVI"
            )


def _is_mask(index: Any) -> bool:
    example = read_example(index) if isinstance(index, fx.Node) else None
    masks = (torch.bool, torch.uint8)
    return example is not None and example.dtype in masks


def explain(error: Exception) -> Exception:
    """Returns what to raise for an error of a recording.

    A refusal keeps its type: Pyro hides the errors of a site's `log_prob` in
    others. Another error is one that only the recording meets, since the pair
    has just run eagerly.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DynamicPairError):
            return cause
        cause = cause.__cause__ or cause.__context__
    line = find_line(error.__traceback__)
    return DynamicPairError(
        f"the model or guide cannot be recorded ({first_line(error)}{line}); "
        "expected a static pair: use pyro.infer.SVI"
    )


def find_line(trace: TracebackType | None = None) -> str:
    """Returns the line of the user's code that is under way, in words.

    Outside of it, where a site's `log_prob` is computed, it is Pyro's line.

    Args:
        trace: The traceback of an error; by default, what is running now.
    """
    frames: Iterator[tuple[Any, int]] = (
        traceback.walk_stack(get_frame(1))
        if trace is None
        else iter(list(traceback.walk_tb(trace))[::-1])
    )
    library = ""
    for frame, number in frames:
        module = frame.f_globals.get("__name__", "")
        if module == "pyro_vae.svi.graphs":  # who asked for a recording
            break
        place = f", in {frame.f_code.co_name}() at line {number}"
        if module and not is_foreign(module):
            return place
        if not library and module.startswith("pyro."):
            library = f"{place} of {module}"
    return library


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
