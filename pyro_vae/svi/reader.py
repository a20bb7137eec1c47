"""What a pair's code reads in Python's objects, found without being run.

A recorded graph would keep the numbers and tensors that the pair's Python code
read when it was recorded. So the code is read: the globals and closures that it
names, and the attributes of the objects that its methods belong to. A value
there that changes is then seen before a step, and a tensor there becomes an
input of the graph.
"""

import contextvars
import functools
import types
import weakref
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    MutableMapping,
)
from itertools import chain
from typing import Any

from pyro import get_param_store
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.svi.compat import get_hook_tables
from pyro_vae.svi.compat_pyro import list_baselines
from pyro_vae.svi.names import (
    ANY_GLOBAL,
    MAKING,
    find_called,
    find_settings,
    find_simple,
    list_names,
)
from pyro_vae.svi.places import (
    CONSTANT,
    CONTAINERS,
    LARGEST,
    PLAIN,
    Place,
    attribute_place,
    cell_place,
    context_place,
    entry_place,
    is_foreign,
    member_place,
    read_cell,
    store_place,
)


class Reader:
    """Walks from function to function, and collects the places that they read.

    Args:
        roots: Functions, methods, modules and other callables.

    Attributes:
        places: The places, by the id of what holds them and their name.
        holders: The ids of the holders, also of those without a place.
    """

    def __init__(self, roots: tuple[Any, ...]):
        self.places: dict[tuple[int, str], Place] = {}
        self.holders: set[int] = set()
        self._spaces: dict[int, dict[str, Any]] = {}
        self._modules: dict[int, nn.Module] = {}
        # While they are kept, their ids are not given to others.
        self._held: list[Any] = []
        self._visited: list[Any] = []
        self._seen: set[tuple[int, int]] = set()
        self._open: list[Callable[[], None]] = []  # visits that wait
        for root in roots:
            self._visit(root, frozenset())
        while self._open:
            self._open.pop()()
        del self._visited, self._seen  # which may be large, and replaced later
        store = get_param_store()
        for name in list_baselines():
            self._note(store, name, store_place(name))
        self._hold(store)

    @property
    def spaces(self) -> list[dict[str, Any]]:
        """The attributes of the objects that the code comes by."""
        return list(self._spaces.values())

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that the code comes by."""
        return list(self._modules.values())

    def _visit(
        self, value: Any, names: frozenset[str], owner: Any = None
    ) -> None:
        """Has a value read that the code reaches, given the code's names."""
        for kinds, visit in _VISITS:
            if isinstance(value, kinds):
                if visit is not None and self._is_new(value, names, owner):
                    self._open.append(
                        functools.partial(visit, self, value, names, owner)
                    )
                return

    def _is_new(self, value: Any, names: Any, owner: Any) -> bool:
        """Returns whether a value was not visited so, and marks that it was."""
        mark = (id(value), hash((names, id(owner))))
        is_new = mark not in self._seen
        if is_new:
            self._seen.add(mark)
            self._visited += [value, names, owner]
        return is_new

    def _visit_partial(
        self, value: functools.partial, names: frozenset[str], _: Any
    ) -> None:
        self._visit(value.func, names)
        for argument in value.args:
            self._visit(argument, names)
        self._visit_mapping(value.keywords, value.keywords, names, "a partial")

    def _visit_method(
        self, value: types.MethodType, names: frozenset[str], _: Any
    ) -> None:
        self._visit(value.__func__, names, value.__self__)

    def _visit_function(
        self, value: types.FunctionType, names: frozenset[str], owner: Any
    ) -> None:
        label = value.__name__
        if not is_foreign(value.__module__ or ""):
            self._visit_mapping(vars(value), names, names, label)
        own = frozenset(list_names(value.__code__))
        cells = zip(
            value.__code__.co_freevars, value.__closure__ or (), strict=True
        )
        for name, variable in cells:
            self._note(variable, name, cell_place(name, variable))
            self._visit(read_cell(variable), own)
        for kind in ("__defaults__", "__kwdefaults__"):
            defaults = getattr(value, kind)
            if defaults:
                place = attribute_place(value, kind, f"a default of {label}")
                self._note(value, kind, place)
                self._visit(defaults, own)
        if not is_foreign(value.__module__ or ""):
            space = value.__globals__
            chosen = own | find_simple(space) if ANY_GLOBAL in own else own
            self._visit_mapping(space, chosen, own, "the global names")
        if owner is not None:
            self._visit(owner, own)

    def _visit_namespace(
        self, value: types.ModuleType, names: frozenset[str], _: Any
    ) -> None:
        if not is_foreign(value.__name__):
            self._visit_mapping(vars(value), names, names, value.__name__)

    def _visit_container(
        self, value: Collection[Any], names: frozenset[str], _: Any
    ) -> None:
        entries = value.values() if isinstance(value, dict) else value
        if len(value) <= LARGEST:
            for entry in entries:
                self._visit(entry, names)

    def _visit_variable(
        self, value: contextvars.ContextVar, names: frozenset[str], _: Any
    ) -> None:
        self._note(value, value.name, context_place(value))
        self._visit(value.get(None), names)

    def _visit_reference(
        self, value: weakref.ref, names: frozenset[str], _: Any
    ) -> None:
        self._visit(value(), names)

    def _visit_class(self, value: type, names: frozenset[str], _: Any) -> None:
        self._visit_members(value, names, value)

    def _visit_module(
        self, value: nn.Module, names: frozenset[str], _: Any
    ) -> None:
        self._visit_object(value, names | {"forward"}, None)
        self._modules[id(value)] = value
        own, label = vars(value), type(value).__name__
        self._note(own, "forward", entry_place(own, "forward", label))
        for child in value._modules.values():
            self._visit(child, names)
        for hook in chain(
            *(table.values() for table in get_hook_tables(value))
        ):
            self._visit(hook, names)
        priors = getattr(value, "_pyro_samples", {})
        self._visit_mapping(priors, priors, names, label)
        for prior in priors.values():
            self._visit(prior, names, value)

    def _visit_object(self, value: Any, names: frozenset[str], _: Any) -> None:
        """Reads the attributes and methods of those names."""
        kind, own = type(value), getattr(value, "__dict__", {})
        self._visit_members(kind, names, value)
        if is_foreign(kind.__module__):
            chosen: Iterable[str] = list(find_settings(value))
        else:  # others may come by the object, under names of their own
            is_loss = isinstance(value, ELBO)  # Pyro sets it as it runs
            chosen = names if is_loss else names | find_simple(own)
            for part in own.values():
                if not is_foreign(type(part).__module__):
                    self._visit(part, names)
        self._visit_mapping(own, chosen, names, kind.__name__)
        if isinstance(own, dict):
            self._spaces[id(own)] = own

    def _visit_members(
        self, kind: type, names: frozenset[str], owner: Any
    ) -> None:
        """Reads what an object has by its class, or the class itself has."""
        own = getattr(owner, "__dict__", None)
        called = find_called(kind) | (MAKING if owner is kind else set())
        for base in kind.__mro__:
            if is_foreign(base.__module__):
                continue
            table = vars(base)
            named = names | called | find_simple(table)
            for name in sorted(named & table.keys()):
                if not isinstance(table[name], types.MemberDescriptorType):
                    self._note(base, name, member_place(base, name))
                    if isinstance(own, dict):  # it may have its own, later
                        place = entry_place(own, name, kind.__name__)
                        self._note(own, name, place)
                elif owner is not kind:
                    label = f"{name} of {kind.__name__}"
                    self._note(owner, name, attribute_place(owner, name, label))
                    self._visit(getattr(owner, name, None), names)
                self._visit_member(table[name], names, owner)

    def _visit_member(
        self, member: Any, names: frozenset[str], owner: Any
    ) -> None:
        if isinstance(member, staticmethod):
            self._visit(member.__func__, names)
        elif isinstance(member, classmethod):
            kind = owner if isinstance(owner, type) else type(owner)
            self._visit(member.__func__, names, kind)
        elif isinstance(member, property):
            for function in (member.fget, member.fset):
                self._visit(function, names, owner)
        elif isinstance(member, _WRAPPERS):
            self._visit(member.func, names, owner)
        elif isinstance(member, types.FunctionType):
            self._visit(member, names, owner)
        else:
            self._visit(member, names)

    def _visit_mapping(
        self,
        mapping: MutableMapping[str, Any],
        chosen: Iterable[str],
        names: frozenset[str],
        owner: str,
    ) -> None:
        """Reads the entries of chosen names."""
        self._hold(mapping)
        for name in sorted(mapping.keys() & set(chosen)):
            self._note(mapping, name, entry_place(mapping, name, owner))
            self._visit(mapping[name], names)

    def _note(self, holder: Any, name: str, place: Place) -> None:
        if not isinstance(place.get(), types.ModuleType):
            self._hold(holder)
            self.places.setdefault((id(holder), name), place)

    def _hold(self, holder: Any) -> None:
        if id(holder) not in self.holders:
            self.holders.add(id(holder))
            self._held.append(holder)


_WRAPPERS = (functools.cached_property, functools.partialmethod)

# What is done with a value of each kind; the first kind that it is of counts.
_VISITS: tuple[tuple[Any, Any], ...] = (
    ((*PLAIN, *CONSTANT, Tensor, types.GenericAlias), None),
    (functools.partial, Reader._visit_partial),
    (types.MethodType, Reader._visit_method),
    (types.FunctionType, Reader._visit_function),
    (types.ModuleType, Reader._visit_namespace),
    (contextvars.ContextVar, Reader._visit_variable),
    (weakref.ref, Reader._visit_reference),
    (CONTAINERS, Reader._visit_container),
    (type, Reader._visit_class),
    (nn.Module, Reader._visit_module),
    (object, Reader._visit_object),
)
