"""The private and undocumented names of torch and Pyro that this package uses.

Each of them stands here alone, with what is relied upon. That is checked, with
the versions at hand, by tests/test_svi_compat.py: look there first after an
update of torch or Pyro.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
import torch.utils.checkpoint
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import Dice
from pyro.ops.provenance import extract_provenance
from pyro.optim import PyroOptim
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK, am_i_wrapped
from pyro.poutine.util import site_is_subsample as is_subsample
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    make_fx,
)
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = [
    "adopt_parameters",
    "am_i_wrapped",
    "aten",
    "convert_element_type",
    "count_late_hooks",
    "foreach_clamp_max_",
    "foreach_clamp_min_",
    "foreach_mul_",
    "foreach_norm",
    "fused_adam_",
    "fused_adamw_",
    "get_clip_options",
    "get_constructor",
    "get_hooks",
    "get_importance_trace",
    "get_module_tables",
    "get_stored",
    "get_torch_optimizers",
    "get_unconstrained",
    "is_subsample",
    "is_validation",
    "list_baselines",
    "make_fx",
    "outside_traces",
    "put_stored",
    "read_example",
    "register_module_forward_pre_hook",
    "unchecked_values",
    "untraced",
    "within_expectations",
    "without_checkpoints",
    "writes_in_place",
]

# torch: one kernel that updates a list of tensors as `torch.optim.Adam` and
# `AdamW` do, but nothing where `found_inf` is 1. It checks no shape or stride.
fused_adam_ = torch._fused_adam_
fused_adamw_ = torch._fused_adamw_

# torch: one call for a list of tensors.
foreach_norm = torch._foreach_norm
foreach_mul_ = torch._foreach_mul_
foreach_clamp_min_ = torch._foreach_clamp_min_
foreach_clamp_max_ = torch._foreach_clamp_max_

# torch: `make_fx(function)(*tensors)` runs a function once, on real tensors,
# and records what reaches ATen, `backward` included, random draws and changes
# in place in their order. A tensor that is no input becomes an attribute of
# the graph. These are the names of the recorded operators.
untraced = disable_proxy_modes_tracing  # a block that is not recorded
aten = torch.ops.aten
convert_element_type = torch.ops.prims.convert_element_type.default


def get_hooks(tensor: Tensor) -> dict[Any, Callable]:
    """Returns the hooks on a tensor's gradient: the live dictionary, or {}.

    Autograd calls those that are in it when a gradient comes.
    """
    return tensor._backward_hooks or {}


def count_late_hooks(tensor: Tensor) -> int:
    """Returns how many hooks wait until a gradient was accumulated."""
    return len(tensor._post_accumulate_grad_hooks or ())


def is_validation(frame: FrameType | None) -> bool:
    """Returns whether a frame is one of those that validate a distribution.

    They check their parameters in `__init__` and values in `_validate_sample`,
    also after validation was switched off, if they were made before. And
    Pyro's stable distributions ask whether they may take a shortcut: if told
    no, the result is the same.
    """
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if frame.f_code.co_name in ("_standard_stable", "_safe_shift"):
            return True
        if name == "torch.distributions.distribution":
            return frame.f_code.co_name in ("__init__", "_validate_sample")
        if not name.startswith(("torch", "pyro_vae.svi")):
            return False
        frame = frame.f_back
    return False


def read_example(node: fx.Node) -> Any:
    """Returns a tensor like a node's result, as `make_fx` notes it, or None."""
    return node.meta.get("val")


def writes_in_place(node: fx.Node) -> bool:
    """Returns whether a recorded operator changes one of its arguments.

    Operators have a `_schema`, whose `is_mutable` says so.
    """
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def get_module_tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """Returns a module's own submodules, parameters and buffers, by name.

    The dictionaries themselves, which the module looks its attributes up in:
    to compare them takes a tenth of the time of `named_parameters()`.
    """
    return module._modules, module._parameters, module._buffers


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
def unchecked_values() -> Iterator[None]:
    """Stops Pyro from looking at tensors' values while a pair runs.

    `pyro.validation_enabled(False)` leaves `pyro.util.torch_isnan`, by which
    `warn_if_nan` branches in the estimators.
    """
    with (
        pyro.validation_enabled(False),
        mock.patch("pyro.util.torch_isnan", lambda value: False),
    ):
        yield


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Makes `torch.utils.checkpoint` keep what it would compute again.

    The numbers are the same. A recorded graph would draw new random numbers in
    the second computation, for which eager steps put the generator back.
    """

    def run(function: Callable, args: tuple, kwargs: dict, **_: object) -> Any:
        return function(*args, **kwargs)

    def apply(function: Callable, preserve: bool, *args: Any) -> Any:
        return function(*args)

    def keep(*args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    module = torch.utils.checkpoint
    patches: list[Any]
    if hasattr(module, "_checkpoint_impl"):  # since torch 2.13, at the latest
        patches = [mock.patch.object(module, "_checkpoint_impl", run)]
    else:
        name = "_checkpoint_without_reentrant_generator"
        patches = [
            mock.patch.object(module, name, keep),
            mock.patch.object(module.CheckpointFunction, "apply", apply),
        ]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


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


def adopt_parameters(optim: PyroOptim, params: Iterable[Tensor]) -> None:
    """Makes parameters' optimizers as `PyroOptim` does before it first steps.

    Its own call would make them, too, but take the step as well. The state
    that `set_state` was given waits until then.
    """
    makes: Any = optim  # as above
    for param in params:
        if param in optim.optim_objs:
            continue
        optim.optim_objs[param] = optim._get_optim(param)
        optim.grad_clip[param] = makes._get_grad_clip(param)
        name = pyro.get_param_store().param_name(param)
        state = optim._state_waiting_to_be_consumed.pop(name, None)
        if state is not None:
            optim.optim_objs[param].load_state_dict(state)
