"""The private and undocumented names of Pyro that this package uses.

As in svi/compat.py, each stands here with what is relied upon, and is checked
by tests/test_svi_compat.py.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import Dice
from pyro.ops.provenance import extract_provenance
from pyro.optim import PyroOptim
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK, am_i_wrapped
from pyro.poutine.util import site_is_subsample as is_subsample
from torch import Tensor

__all__ = [
    "adopt_parameters",
    "am_i_wrapped",
    "get_clip_options",
    "get_constructor",
    "get_importance_trace",
    "get_stored",
    "get_torch_optimizers",
    "get_unconstrained",
    "is_subsample",
    "list_baselines",
    "outside_traces",
    "put_stored",
    "unchecked_sites",
    "within_expectations",
]


@contextmanager
def outside_traces() -> Iterator[None]:
    """Leaves the traces of parameters that `pyro.infer.SVI` steps within.

    Pyro's handlers stand in the list `_PYRO_STACK`. What runs in the block is
    not seen by them.

    Raises:
        ValueError: If there are other handlers.
    """
    handlers = list(_PYRO_STACK)
    for handler in handlers:
        if not getattr(handler, "param_only", False):
            raise ValueError(
                "the step runs inside a Pyro handler, "
                f"{type(handler).__name__}; expected it outside: put the "
                "handler around the model or the guide instead"
            )
    _PYRO_STACK.clear()
    try:
        yield
    finally:
        _PYRO_STACK[:] = handlers


@contextmanager
def unchecked_sites() -> Iterator[None]:
    """Stops Pyro from looking at sites' values while a pair runs.

    Distributions validate as before. `pyro.validation_enabled(False)` would
    stop them, too, and leaves `pyro.util.torch_isnan`, by which `warn_if_nan`
    branches in the estimators.
    """
    kind = torch.distributions.Distribution
    is_validating = kind._validate_args
    try:
        with (
            pyro.validation_enabled(False),
            mock.patch("pyro.util.torch_isnan", lambda value: False),
        ):
            kind.set_default_validate_args(is_validating)
            yield
    finally:
        kind.set_default_validate_args(is_validating)


@contextmanager
def within_expectations(
    make_mode: Callable[[], AbstractContextManager],
) -> Iterator[None]:
    """Enters another block wherever Pyro sums over enumerated states.

    `TraceEnum_ELBO` does so in `Dice.compute_expectation` alone.
    """
    expectation = Dice.compute_expectation

    def compute_expectation(self: Dice, costs: dict) -> Tensor | float:
        with make_mode():
            return expectation(self, costs)

    with mock.patch.object(Dice, "compute_expectation", compute_expectation):
        yield


def get_unconstrained(trace: Trace) -> list[Tensor]:
    """Returns the parameters of a trace, as optimizers see them.

    A parameter that is announced under several names comes as often.
    """
    sites: Iterable[Any] = trace.nodes.values()
    return [
        site["value"].unconstrained()
        for site in sites
        if site["type"] == "param"
    ]


def list_baselines() -> list[str]:
    """Returns the names of the running averages that `TraceGraph_ELBO` keeps.

    They stand among the parameters of Pyro's store, where each step puts
    another tensor, but no optimizer steps them.
    """
    prefix = "__baseline_avg_downstream_cost_"
    return [n for n in pyro.get_param_store() if n.startswith(prefix)]


def get_stored(name: str) -> Tensor | None:
    """Returns what optimizers see of an entry of Pyro's store.

    `TraceGraph_ELBO` wraps tensors, to know what they depend on.
    """
    stored: Any = pyro.get_param_store()._params.get(name)
    value: Any = extract_provenance(stored)[0]
    return value


def put_stored(name: str, value: Tensor | None) -> None:
    """Puts another tensor into an entry of Pyro's store, or takes it out."""
    store = pyro.get_param_store()
    if name in store:
        del store[name]
    if value is not None:
        store._constraints[name] = dist.constraints.real
        store._params[name] = value
        store._param_to_name[value] = name


def get_constructor(optim: PyroOptim) -> Any:
    """Returns the class of torch optimizers that a Pyro optimizer makes."""
    return optim.pt_optim_constructor


def get_torch_optimizers(
    optim: PyroOptim,
) -> dict[Tensor, torch.optim.Optimizer]:
    """Returns the torch optimizer of each parameter: the live dictionary.

    Its options are read anew at each step; it keeps the state of its parameter
    under the names of `torch.optim.Adam`.
    """
    return optim.optim_objs


def get_clip_options(optim: PyroOptim, param: Tensor) -> dict[str, float]:
    """Returns a parameter's `clip_norm` and `clip_value`, if it has them."""
    makes: Any = optim  # its annotation says that it takes a name
    return makes._get_grad_clip_args(param)


@contextmanager
def _without_compilers() -> Iterator[None]:
    """Lets an optimizer be made without an import of torch's compilers.

    Its `add_param_group` is wrapped by what keeps them away, and imports them.
    """
    owner, name = torch.optim.Optimizer, "add_param_group"
    method = getattr(owner, name)
    if "torch._dynamo" not in sys.modules:
        method = getattr(method, "__wrapped__", method)
    with mock.patch.object(owner, name, method):
        yield


def adopt_parameters(optim: PyroOptim, params: Iterable[Tensor]) -> None:
    """Makes parameters' optimizers as `PyroOptim` does before it first steps.

    Its own call would make them, too, but take the step as well. The state
    that `set_state` was given waits until then.
    """
    makes: Any = optim  # as above
    for param in params:
        if param in optim.optim_objs:
            continue
        with _without_compilers():
            optim.optim_objs[param] = optim._get_optim(param)
        optim.grad_clip[param] = makes._get_grad_clip(param)
        name = pyro.get_param_store().param_name(param)
        state = optim._state_waiting_to_be_consumed.pop(name, None)
        if state is not None:
            optim.optim_objs[param].load_state_dict(state)
