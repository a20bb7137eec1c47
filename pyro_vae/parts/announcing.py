"""A module's parameters as `param` sites of Pyro, under names of its own."""

import itertools
import weakref
from typing import Any

import pyro
from torch import nn

_count = itertools.count()
_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def announce(module: nn.Module) -> None:
    """Announces a module's trainable parameters to Pyro as `param` sites.

    Pyro's names are global: two modules announced under one name would share
    the first one's parameters, so each module gets a name of its own, and a
    parameter that was put in another's place replaces it in the param store.
    """
    store = pyro.get_param_store()
    stored = dict(store.named_parameters())
    for name, parameter in param_names(module).items():
        if stored.get(name, parameter) is not parameter:
            del store[name]
        pyro.param(name, parameter)


def param_names(module: nn.Module) -> dict[str, nn.Parameter]:
    """Returns a module's trainable parameters by their names in Pyro."""
    if module not in _names:
        name = f"{type(module).__name__.lower()}{next(_count)}"
        _names[module] = name
        weakref.finalize(module, _forget, f"{name}.").atexit = False
    return {
        f"{_names[module]}.{name}": parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _forget(prefix: str) -> None:
    """Removes a dead module's parameters from the param store."""
    store = pyro.get_param_store()
    for name in [name for name in store if name.startswith(prefix)]:
        del store[name]


def state_without_marks(module: nn.Module) -> dict[str, Any]:
    """Returns a module's state, to be pickled.

    `pyro.param` leaves a weak reference on each parameter, which cannot be
    pickled, and puts it there anew whenever the parameter is announced.
    """
    for parameter in module.parameters():
        parameter.__dict__.pop("unconstrained", None)
    return module.__dict__.copy()
