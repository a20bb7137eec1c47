"""The private and undocumented names of torch that this package uses.

Each of them stands here alone, with what is relied upon. That is checked, with
the versions at hand, by tests/test_svi_compat.py: look there first after an
update of torch or Pyro.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "OperatorMode",
    "WeakTensorKeys",
    "aten",
    "foreach_clamp_max_",
    "foreach_clamp_min_",
    "foreach_mul_",
    "foreach_norm",
    "fused_adam_",
    "fused_adamw_",
    "get_default_device",
    "get_hook_tables",
    "get_hooks",
    "get_late_hooks",
    "get_module_tables",
    "handles_operators",
    "have_hooks",
    "is_shortcut",
    "is_validation",
    "is_written",
    "register_module_forward_pre_hook",
    "unrecorded",
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

# torch: the operators that a recording meets.
aten = torch.ops.aten

# torch: a dictionary that does not keep its keys, which are tensors, alive.
WeakTensorKeys = WeakTensorKeyDictionary


class OperatorMode(TorchDispatchMode):
    """A `TorchDispatchMode` that does not import torch's compilers.

    torch would, for a second, to keep them from what a mode does.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextmanager
def unrecorded() -> Iterator[None]:
    """Runs a block that no `TorchDispatchMode` sees, and so no recording."""
    with torch._C._DisableTorchDispatch():
        yield


def handles_operators(kind: type) -> bool:
    """Returns whether tensors of a type see to ATen's operators themselves."""
    own: Any = getattr(kind, "__torch_dispatch__", None)
    return own is not Tensor.__torch_dispatch__


def get_hooks(tensor: Tensor) -> dict[Any, Callable]:
    """Returns the hooks on a tensor's gradient: the live dictionary, or {}.

    Autograd calls those that are in it when a gradient comes.
    """
    return tensor._backward_hooks or {}


def get_late_hooks(tensor: Tensor) -> dict[Any, Callable]:
    """Returns the hooks that wait until a gradient was accumulated.

    The live dictionary, or {}.
    """
    hooks: dict[Any, Callable] = tensor._post_accumulate_grad_hooks or {}
    return hooks


def get_default_device() -> torch.device:
    """Returns what `torch.get_default_device` does, and sooner.

    torch takes ten microseconds to find the mode that sets it, also where
    there are no modes.
    """
    if torch._C._len_torch_function_stack() == 0:
        return torch.device("cpu")
    return torch.get_default_device()


def have_hooks(tensors: Iterable[Tensor]) -> bool:
    """Returns whether any of some tensors has a hook on its gradient."""
    return any(
        tensor._backward_hooks or tensor._post_accumulate_grad_hooks
        for tensor in tensors
    )


def _walk_out(frame: FrameType | None) -> Iterator[tuple[str, str]]:
    """Yields the modules and functions of frames, from the innermost one.

    The last one is the first that is neither torch's nor of this package.
    """
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        yield name, frame.f_code.co_name
        if not name.startswith(("torch.", "pyro_vae.svi.")):
            return
        frame = frame.f_back


def is_validation(frame: FrameType | None) -> bool:
    """Returns whether a frame is one of those that validate a distribution.

    They check their parameters in `__init__` and values in `_validate_sample`.
    """
    for module, function in _walk_out(frame):
        if module == "torch.distributions.distribution":
            return function in ("__init__", "_validate_sample")
    return False


def is_shortcut(frame: FrameType | None) -> bool:
    """Returns whether a frame asks only whether it may compute less.

    Pyro's stable distributions do: if told yes, the result is the same.
    """
    return any(
        module.startswith("pyro.")
        and function in ("_standard_stable", "_safe_shift")
        for module, function in _walk_out(frame)
    )


def writes_in_place(node: fx.Node) -> bool:
    """Returns whether a recorded operator changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (
        schema.is_mutable or schema.name in _WRITING_UNSAID
    )


def is_written(schema: Any, argument: Any) -> bool:
    """Returns whether an operator changes an argument.

    Its schema says so, but not that batch norm changes running statistics.
    """
    info = argument.alias_info
    return (info is not None and info.is_write) or (
        schema.name in _WRITING_UNSAID and argument.name.startswith("running")
    )


_WRITING_UNSAID = {
    "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
    "aten::native_batch_norm",
}


def get_module_tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """Returns a module's own submodules, parameters and buffers, by name.

    The dictionaries themselves, which the module looks its attributes up in:
    to compare them takes a tenth of the time of `named_parameters()`.
    """
    return module._modules, module._parameters, module._buffers


def get_hook_tables(module: nn.Module) -> tuple[Mapping[int, Any], ...]:
    """Returns a module's hooks: the live dictionaries.

    Each hook that is registered gets a key that no other has had.
    """
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


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
