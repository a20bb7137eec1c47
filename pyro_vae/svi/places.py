"""The Python state that a pair's code reads: where it lies, and its values.

A recorded graph would keep the numbers and tensors that the pair's Python code
read when it was recorded. So the code is read, without being run: the globals
and closures that it names, and the attributes of the objects that its methods
belong to. A value there that changes is then seen before a step, and a tensor
there becomes an input of the graph.
"""

import functools
import sys
import types
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import get_param_store
from torch import Tensor, nn

from pyro_vae.svi.compat_pyro import get_stored, list_baselines, put_stored

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
CONSTANT = (torch.dtype, torch.device, torch.Size, range)
LARGEST = 100  # entries of a dictionary or list that are looked into
_FOREIGN = (sys.stdlib_module_names - {"__main__"}) | {
    "networkx",
    "numpy",
    "opt_einsum",
    "pyro",
    "torch",
}


class Place(NamedTuple):
    """A name that holds a value which code reads.

    Attributes:
        label: The name, for sentences: `beta of Model`.
        get: Returns its value.
        put: Gives it another value.
    """

    label: str
    get: Callable[[], Any]
    put: Callable[[Any], None]


class Reader:
    """Walks from function to function, and collects the places that they read.

    Args:
        roots: Functions, methods, modules and other callables.

    Attributes:
        places: The places, by the id of what holds them and their name.
        holders: The ids of the holders, also of those without a place.
        modules: The modules that the code comes by.
    """

    def __init__(self, roots: tuple[Any, ...]):
        self.places: dict[tuple[int, str], Place] = {}
        self.holders: set[int] = set()
        self.modules: list[nn.Module] = []
        self._seen: set[tuple[int, int]] = set()
        self._alive: list[Any] = []  # their ids must not be given to others
        for root in roots:
            self._visit(root, frozenset())
        store = get_param_store()
        for name in list_baselines():
            self.places[id(store), name] = stored(name)
        self.holders.add(id(store))

    def _visit(
        self, value: Any, names: frozenset[str], owner: Any = None
    ) -> None:
        """Reads a value that code has come by, and knows by those names."""
        if isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self._visit(part, names)
        elif isinstance(value, types.MethodType):
            self._visit(value.__func__, names, value.__self__)
        elif isinstance(value, types.FunctionType):
            self._visit_function(value, owner)
        elif isinstance(value, types.ModuleType):
            if not is_foreign(value.__name__):
                self._visit_mapping(vars(value), names, value.__name__)
        elif isinstance(value, list | tuple | dict):
            entries = value.values() if isinstance(value, dict) else value
            if len(value) <= LARGEST and self._is_new(value, names):
                for entry in entries:
                    self._visit(entry, names)
        elif isinstance(value, nn.Module):
            self._visit_object(value, names | {"forward"})
        elif not isinstance(value, (*PLAIN, *CONSTANT, Tensor, type)):
            self._visit_object(value, names | {"__call__"})

    def _is_new(self, value: Any, how: Any) -> bool:
        """Returns whether a value was not visited so, and marks that it was."""
        mark = (id(value), hash(how))
        is_new = mark not in self._seen
        self._seen.add(mark)
        self._alive += [value, how]
        return is_new

    def _visit_function(self, function: types.FunctionType, owner: Any) -> None:
        if not self._is_new(function, id(owner)):
            return
        self._alive.append(owner)
        names = frozenset(_names(function.__code__))
        for name, cell in zip(
            function.__code__.co_freevars,
            function.__closure__ or (),
            strict=True,
        ):
            self._visit_cell(name, cell, names)
        for default in function.__defaults__ or ():
            self._visit(default, names)
        for default in (function.__kwdefaults__ or {}).values():
            self._visit(default, names)
        if not is_foreign(function.__module__ or ""):
            space = function.__globals__
            self._visit_mapping(space, names, "the global names")
        if owner is not None:
            self._visit_object(owner, names)

    def _visit_cell(
        self, name: str, cell: types.CellType, names: frozenset[str]
    ) -> None:
        try:
            value = cell.cell_contents
        except ValueError:  # it is empty still
            return

        def put(value: Any) -> None:
            cell.cell_contents = value

        self._note(cell, name, Place(name, lambda: cell.cell_contents, put))
        self._visit(value, names)

    def _visit_mapping(
        self,
        mapping: MutableMapping[str, Any],
        names: frozenset[str],
        owner: str,
    ) -> None:
        self._hold(mapping)
        if not self._is_new(mapping, names):
            return
        for name in sorted(names & mapping.keys()):
            place = _entry(mapping, name, f"{name} of {owner}")
            self._note(mapping, name, place)
            self._visit(mapping[name], names)

    def _visit_object(self, owner: Any, names: frozenset[str]) -> None:
        """Reads the attributes and methods of those names."""
        kind = type(owner)
        if not self._is_new(owner, names):
            return
        own = getattr(owner, "__dict__", {})
        for base in kind.__mro__:
            if is_foreign(base.__module__):
                continue
            for name in names & vars(base).keys() - own.keys():
                member = vars(base)[name]
                if isinstance(member, types.FunctionType):
                    self._visit_function(member, owner)
                elif isinstance(member, property) and member.fget:
                    self._visit(member.fget.__get__(owner), names)
                elif not hasattr(member, "__get__"):
                    self._note(owner, name, _attribute(owner, name))
                    self._visit(member, names)
        if is_foreign(kind.__module__):
            names = frozenset(_settings(owner))
        self._visit_mapping(own, names, kind.__name__)
        if isinstance(owner, nn.Module):
            self.modules.append(owner)
            for child in owner._modules.values():
                if child is not None:
                    self._visit(child, names)

    def _note(self, holder: Any, name: str, place: Place) -> None:
        if isinstance(place.get(), types.ModuleType | type):
            return
        self._hold(holder)
        self.places.setdefault((id(holder), name), place)

    def _hold(self, holder: Any) -> None:
        if id(holder) not in self.holders:
            self.holders.add(id(holder))
            self._alive.append(holder)


def _entry(mapping: MutableMapping[str, Any], name: str, label: str) -> Place:
    def put(value: Any) -> None:
        mapping[name] = value

    return Place(label, lambda: mapping.get(name), put)


def _attribute(owner: Any, name: str) -> Place:
    """Returns the place of an attribute that the object's class may have."""
    return Place(
        f"{name} of {type(owner).__name__}",
        lambda: getattr(owner, name, None),
        lambda value: setattr(owner, name, value),
    )


def stored(name: str) -> Place:
    """Returns the place of an entry of Pyro's store."""
    return Place(
        f"{name} of Pyro's store",
        lambda: get_stored(name),
        lambda value: put_stored(name, value),
    )


def _settings(owner: Any) -> Iterator[str]:
    """Yields the names of the numbers and strings that an object is set to."""
    is_network = isinstance(owner, nn.Module)
    for name, value in getattr(owner, "__dict__", {}).items():
        # A layer's sizes are those of its parameters; `training` is its mode.
        kinds = float if is_network else PLAIN
        if not name.startswith("_") and isinstance(value, kinds):
            yield name


def _names(code: types.CodeType) -> Iterator[str]:
    """Yields the globals and attributes that code and the code in it name."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def is_foreign(module: str) -> bool:
    """Returns whether a module is no code of the user's, but a library's."""
    package = module.split(".")[0]
    return package in _FOREIGN or module.startswith("pyro_vae.svi")
