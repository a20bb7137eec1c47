"""Operators that read values themselves while a graph is recorded."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.svi.compat import OperatorMode, aten, unrecorded
from pyro_vae.svi.values import Recording

# Operators that read their first argument, and whose results have no gradient.
_READING_OPERATORS = {
    aten._local_scalar_dense.default: "a tensor as a number",
    aten.nonzero.default: "torch.nonzero",
    aten._unique2.default: "torch.unique",
    aten.unique_dim.default: "torch.unique",
    aten.unique_consecutive.default: "torch.unique_consecutive",
    aten.repeat_interleave.Tensor: "torch.repeat_interleave",
}
PACKING = aten._pack_padded_sequence.default
# Operators of whose arguments one determines the shape of the result.
_SHAPED = {
    PACKING: (1, "pack_padded_sequence, by the lengths"),
    aten.bincount.default: (0, "torch.bincount"),
}


class OperatorReads(OperatorMode):
    """Notes the values that torch's own operators read.

    Args:
        recording: What notes them.
    """

    def __init__(self, recording: Recording):
        super().__init__()
        self._recording = recording

    def __torch_dispatch__(
        self,
        function: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _READING_OPERATORS:
            return self._recording.note(
                args[0],
                _READING_OPERATORS[function],
                lambda value: function(value, *args[1:], **(kwargs or {})),
            )
        if torch.Tag.data_dependent_output in function.tags:
            return self._answer(function, args, kwargs or {})
        if function in _SHAPED:
            place, way = _SHAPED[function]
            self._recording.note(args[place], way, lambda value: None)
        return function(*args, **(kwargs or {}))

    def _answer(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Returns what Python is told of tensors, by `torch.equal`, say."""
        way = f"torch.{function.overloadpacket.__name__}"
        values = [
            self._recording.note(arg, way, lambda value: value)
            if isinstance(arg, Tensor)
            else arg
            for arg in args
        ]
        with unrecorded():
            return function(*values, **kwargs)
