"""The places of Python state: a name, and how its value is read and put."""

import argparse
import contextvars
import dataclasses
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import torch

from pyro_vae.svi.compat_pyro import get_stored, put_stored

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
CONSTANT = (torch.dtype, torch.device, torch.Size, range)
CONTAINERS = (list, tuple, set, frozenset, dict, deque)
NAMESPACES = (argparse.Namespace, types.SimpleNamespace)
LARGEST_ARRAY = 1 << 20  # bytes that are compared at every step
LARGEST = 100  # entries of a container that are looked into, one by one
DEEPEST = 8  # containers within containers that are looked into
NOTHING = object()  # what a place holds where there is nothing by its name
_FOREIGN = (sys.stdlib_module_names - {"__main__"}) | {
    "networkx",
    "numpy",
    "opt_einsum",
    "pyro",
    "torch",
}
# Ours: what computes steps, and what names parameters at the first one.
_OWN = ("pyro_vae.svi", "pyro_vae.parts.announcing")


class Place(NamedTuple):
    """A name that may hold a value which code reads.

    Attributes:
        label: The name, for sentences: `beta of Model`.
        get: Returns its value, or `NOTHING`.
        put: Gives it another value; `NOTHING` deletes it.
    """

    label: str
    get: Callable[[], Any]
    put: Callable[[Any], None]


def entry_place(
    mapping: MutableMapping[str, Any], name: str, owner: str
) -> Place:
    """Returns the place of an entry of a dictionary."""

    def put(value: Any) -> None:
        if value is NOTHING:
            mapping.pop(name, None)
        else:
            mapping[name] = value

    get = functools.partial(mapping.get, name, NOTHING)
    return Place(f"{name} of {owner}", get, put)


def attribute_place(owner: Any, name: str, label: str) -> Place:
    """Returns the place of an attribute that is in no dictionary."""
    get = functools.partial(getattr, owner, name, NOTHING)
    return Place(label, get, _setter(owner, name))


def member_place(kind: type, name: str) -> Place:
    """Returns the place of an attribute of a class."""
    get = functools.partial(vars(kind).get, name, NOTHING)
    return Place(f"{name} of {kind.__name__}", get, _setter(kind, name))


def _setter(owner: Any, name: str) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        if value is NOTHING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)

    return put


def cell_place(name: str, variable: types.CellType) -> Place:
    """Returns the place of a variable of a closure."""

    def put(value: Any) -> None:
        if value is NOTHING:
            del variable.cell_contents
        else:
            variable.cell_contents = value

    return Place(name, functools.partial(read_cell, variable), put)


def context_place(variable: contextvars.ContextVar) -> Place:
    """Returns the place of a context variable's value."""

    def put(value: Any) -> None:
        if value is not NOTHING:
            variable.set(value)

    get = functools.partial(variable.get, NOTHING)
    return Place(variable.name, get, put)


def read_cell(variable: types.CellType) -> Any:
    """Returns the value of a variable of a closure, or `NOTHING`."""
    try:
        return variable.cell_contents
    except ValueError:  # it is empty
        return NOTHING


def store_place(name: str) -> Place:
    """Returns the place of an entry of Pyro's store."""
    return Place(
        f"{name} of Pyro's store",
        lambda: get_stored(name),
        lambda value: put_stored(name, value),
    )


def describe_plain(value: Any) -> tuple[type, Any]:
    """Returns what a number, a string or the like is compared by.

    A NaN is equal to nothing, 0.0 to -0.0, and 1 to 1.0 and True.
    """
    is_unique = value == value and value != 0
    return (type(value), value if is_unique else repr(value))


def fields_of(value: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass or namespace; {} of anything else."""
    is_record = isinstance(value, NAMESPACES) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )
    fields: dict[str, Any] = getattr(value, "__dict__", {}) if is_record else {}
    return fields


def is_foreign(module: str) -> bool:
    """Returns whether a module is no code of the user's, but a library's."""
    package = module.split(".")[0]
    return (
        package in _FOREIGN
        or module.startswith(_OWN)
        or is_without_torch(package)
    )


@functools.cache
def is_without_torch(package: str) -> bool:
    """Returns whether a package is an installed one that knows no torch.

    It may be as large as pandas, whose code is not worth to be read.
    """
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    if "site-packages" not in path and "dist-packages" not in path:
        return False
    return not any(
        getattr(module, "__dict__", {}).get("torch") is torch
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == package
    )
