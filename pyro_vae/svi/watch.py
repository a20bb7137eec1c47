"""What a recorded graph takes for granted, and whether it still holds."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from pyro import get_param_store
from torch import Tensor, nn

from pyro_vae.svi.compat import (
    get_hook_tables,
    get_module_tables,
    register_module_forward_pre_hook,
)
from pyro_vae.svi.equality import are_same


def copy_buffers(modules: Iterable[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Returns the modules' own buffers, each with a copy of its value."""
    return [
        (buffer, buffer.clone())
        for module in modules
        for buffer in module.buffers(recurse=False)
    ]


class ModuleCalls:
    """Collects the modules that a pair calls within a `with` block.

    Args:
        parts: The model and the guide: a module, a method of one, or any other
            callable, whose modules are known by their calls alone.

    Attributes:
        buffers: Each buffer and a copy of its value before the first call.
    """

    def __init__(self, *parts: Callable):
        self._found: dict[int, nn.Module] = {}
        self.buffers: list[tuple[Tensor, Tensor]] = []
        for part in parts:
            owner = getattr(part, "__self__", part)
            if isinstance(owner, nn.Module):
                for module in owner.modules():
                    self.note(module)

    def modules(self) -> list[nn.Module]:
        """Returns the modules that were called or that the pair belongs to."""
        return list(self._found.values())

    def __enter__(self) -> "ModuleCalls":
        self._hook = register_module_forward_pre_hook(
            lambda module, _: self.note(module)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def note(self, module: nn.Module) -> None:
        """Adds a module."""
        if id(module) not in self._found:
            self._found[id(module)] = module
            self.buffers += copy_buffers([module])


class Watch:
    """The parameters and modules that a recorded graph takes for granted.

    Args:
        modules: The modules that the pair calls.
        names: The names of its parameters in Pyro's store.
    """

    def __init__(self, modules: Iterable[nn.Module], names: Iterable[str]):
        stored = dict(get_param_store().named_parameters())
        self.modules = list(modules)
        self.names = list(names)
        self._params = [id(stored[name]) for name in self.names]
        self._tables = [
            table
            for module in self.modules
            for table in get_module_tables(module)
        ]
        self._hook_tables = [
            table
            for module in self.modules
            for table in get_hook_tables(module)
        ]
        self._entry_names = self._list_entry_names()
        self._filled = [table for table in self._tables if table]
        self._entries = self._list_entries()  # which this keeps alive
        own = [p for m in self.modules for p in m.parameters(recurse=False)]
        tensors = dict.fromkeys([*(stored[name] for name in self.names), *own])
        self._tensors = list(tensors)
        self._trainable = [p.requires_grad for p in self._tensors]
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._layouts = list(map(_layout, self._tensors))

    def modes(self) -> tuple[bool, ...]:
        """Returns the mode of each module: true for training."""
        return tuple([module.training for module in self.modules])

    def holds(self) -> bool:
        """Returns whether all that the graph took for granted still holds.

        It does while parameters, submodules and buffers are the same objects,
        the parameters have the same dtype and layout, the same ones of them
        are trainable, and the modules have the same hooks.
        """
        stored = dict(get_param_store().named_parameters())
        return (
            [*map(id, map(stored.get, self.names))] == self._params
            and [p.requires_grad for p in self._tensors] == self._trainable
            and self._list_entry_names() == self._entry_names
            and are_same(self._list_entries(), self._entries)
            and self._has_same_layouts()
        )

    def _list_entry_names(self) -> list[Any]:
        """Returns the names of entries, and the keys of modules' hooks."""
        tables: list[Mapping[Any, Any]] = [*self._tables, *self._hook_tables]
        return [*chain.from_iterable(tables)]

    def _list_entries(self) -> list[Any]:
        """Returns the entries; names tell of tables that were empty."""
        return [*chain.from_iterable(t.values() for t in self._filled)]

    def _has_same_layouts(self) -> bool:
        """Compares layouts, but only if some tensor's memory is another."""
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        if addresses != self._addresses:
            self._addresses = addresses
            return self._layouts == list(map(_layout, self._tensors))
        return True


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.layout != torch.strided:
        return (tensor.dtype, tensor.device, tensor.shape, tensor.layout)
    return (tensor.dtype, tensor.device, tensor.shape, tensor.stride())


def autocast_dtype(device: str) -> torch.dtype | None:
    """Returns the dtype that torch casts to on a device, if it does."""
    is_on = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on else None


def list_settings(loss: object) -> Any:
    """Returns the numbers and strings that an estimator is set to.

    Beside the places that its code reads, since Pyro sets some at its first
    run, which would count as something that the run has made.
    """
    return tuple(
        [
            (name, value)
            for name, value in getattr(loss, "__dict__", {}).items()
            if isinstance(value, bool | int | float | str)
        ]
    )
