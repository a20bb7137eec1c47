"""The names by which code may read, and the settings of objects."""

import types
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from pyro_vae.svi.places import (
    LARGEST_ARRAY,
    PLAIN,
    is_foreign,
    is_without_torch,
)

# Foreign objects that hold what a user has put there.
_OPEN = (
    "argparse",
    "collections",
    "pyro.distributions",
    "pyro.nn",
    "pyro.poutine",
    "torch.distributions",
    "types",
)
# By these, code reads attributes or globals under names that it computes.
_COMPUTED = {
    "__dict__",
    "__getattribute__",
    "attrgetter",
    "getattr",
    "globals",
    "vars",
}
ANY_GLOBAL = "any global name"  # no identifier
MAKING = frozenset({"__init__", "__new__", "__post_init__"})  # an object
# What is called when an object is made, copied, pickled, moved or shown.
_ELSEWHERE = MAKING | {
    "_apply",
    "__copy__",
    "__deepcopy__",
    "__del__",
    "__getstate__",
    "__init_subclass__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setstate__",
    "__str__",
    "cpu",
    "cuda",
    "eval",
    "extra_repr",
    "load_state_dict",
    "named_parameters",
    "parameters",
    "state_dict",
    "to",
    "train",
}
_CODE = (types.FunctionType, classmethod, staticmethod, property)
_OWN_OF_MODULES = vars(nn.Module()).keys()


def find_settings(owner: Any) -> Iterator[str]:
    """Yields the names of what a foreign object is set to."""
    if is_without_torch(type(owner).__module__.split(".")[0]):
        return
    is_module = isinstance(owner, nn.Module)
    is_open = not is_module and type(owner).__module__.startswith(_OPEN)
    for name, value in getattr(owner, "__dict__", {}).items():
        is_public = name[0] != "_" and name != "training"  # a module's mode
        kinds = (*PLAIN, tuple, Tensor)
        if is_open or (is_public and isinstance(value, kinds)):
            yield name


def find_called(kind: type) -> set[str]:
    """Returns the names of the methods that a library calls, not the user.

    They are those that operators call, such as `__getitem__`, and those that
    a class has in place of a library's: `log_prob` of a distribution, say, or
    `_pyro_sample` of a handler.
    """
    foreign = [base for base in kind.__mro__ if is_foreign(base.__module__)]
    known = {name for base in foreign for name in vars(base)} - vars(
        object
    ).keys()
    found = set()
    for base in kind.__mro__:
        if base not in foreign:
            found |= {
                name
                for name, member in vars(base).items()
                if isinstance(member, _CODE)
                and (name in known or name.startswith(("__", "_pyro_")))
            }
    return found - _ELSEWHERE


def find_simple(table: Mapping[str, Any]) -> set[str]:
    """Returns the names of plain values and small tensors in a table.

    Names with `__` are left out, and those that each module has.
    """
    return {
        name
        for name, value in table.items()
        if name[:2] != "__"
        and name not in _OWN_OF_MODULES
        and (isinstance(value, PLAIN) or _is_small(value))
    }


def _is_small(value: Any) -> bool:
    return isinstance(value, Tensor) and (
        value.numel() * value.element_size() <= LARGEST_ARRAY
    )


def list_names(code: types.CodeType) -> Iterator[str]:
    """Yields the names by which code, and the code in it, may read."""
    yield from code.co_names
    if not _COMPUTED.isdisjoint(code.co_names):
        if "globals" in code.co_names:
            yield ANY_GLOBAL
        for constant in code.co_consts:
            if isinstance(constant, str):
                yield constant
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from list_names(constant)
