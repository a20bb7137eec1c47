"""The names by which code may read, and by which an object is set."""

import types
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from pyro_vae.svi.places import PLAIN

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
ANY_NAME, ANY_GLOBAL = "any name", "any global name"  # no identifiers
MAKING = frozenset({"__init__", "__new__", "__post_init__"})  # an object
# What is called when an object is made, copied, pickled or shown.
_ELSEWHERE = MAKING | {
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
}


def find_settings(owner: Any) -> Iterator[str]:
    """Yields the names of what a foreign object is set to."""
    is_module = isinstance(owner, nn.Module)
    is_open = not is_module and type(owner).__module__.startswith(_OPEN)
    for name, value in getattr(owner, "__dict__", {}).items():
        is_public = name[0] != "_" and name != "training"  # a module's mode
        if is_open or (is_public and isinstance(value, (*PLAIN, tuple))):
            yield name


def find_special(table: Mapping[str, Any]) -> set[str]:
    """Returns the names of methods that operators call, `__getitem__`, say."""
    return {
        name
        for name, member in table.items()
        if name[:2] == "__" and isinstance(member, types.FunctionType)
    } - _ELSEWHERE


def find_simple(table: Mapping[str, Any]) -> set[str]:
    """Returns the names of plain values and tensors, those with __ aside."""
    return {
        name
        for name, value in table.items()
        if isinstance(value, (*PLAIN, Tensor)) and name[:2] != "__"
    }


def list_names(code: types.CodeType) -> Iterator[str]:
    """Yields the names by which code, and the code in it, may read."""
    yield from code.co_names
    if not _COMPUTED.isdisjoint(code.co_names):
        yield from (ANY_NAME, ANY_GLOBAL)[: 1 + ("globals" in code.co_names)]
        for constant in code.co_consts:
            if isinstance(constant, str):
                yield constant
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from list_names(constant)
