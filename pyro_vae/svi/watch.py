"""What a recorded graph takes for granted, and whether it still holds."""

from collections.abc import Callable

from pyro import get_param_store
from torch import Tensor, nn

from pyro_vae.svi.graphs import buffer_copies


class ModuleCalls:
    """Collects the modules that a pair calls, and their buffers before."""

    def __init__(self, *parts: Callable):
        self._found: dict[int, nn.Module] = {}
        self.buffers: list[tuple[Tensor, Tensor]] = []
        for part in parts:
            owner = getattr(part, "__self__", part)
            if isinstance(owner, nn.Module):
                for module in owner.modules():
                    self._note(module)

    def modules(self) -> list[nn.Module]:
        """Those called, and those that the pair is or belongs to."""
        return list(self._found.values())

    def __enter__(self) -> "ModuleCalls":
        register = nn.modules.module.register_module_forward_pre_hook
        self._hook = register(lambda module, _: self._note(module))
        return self

    def __exit__(self, *_) -> None:
        self._hook.remove()

    def _note(self, module: nn.Module) -> None:
        if id(module) not in self._found:
            self._found[id(module)] = module
            self.buffers += buffer_copies([module])


class Watch:
    """What a recorded graph took for granted of parameters and modules."""

    def __init__(self, modules: list[nn.Module], names: list[str]):
        stored = dict(get_param_store().named_parameters())
        self.params = [(name, stored[name]) for name in names]
        self.modules = [
            (
                module,
                [
                    (table, dict(table))
                    for table in (
                        module._modules,
                        module._parameters,
                        module._buffers,
                    )
                ],
            )
            for module in modules
        ]
        self.trainable = [
            (param, param.requires_grad)
            for module in modules
            for param in module._parameters.values()
            if param is not None
        ]

    def modes(self) -> tuple[bool, ...]:
        """Which modules are in training mode."""
        return tuple([module.training for module, _ in self.modules])

    def holds(self) -> bool:
        """Whether parameters, submodules and buffers are still the same."""
        stored = dict(get_param_store().named_parameters())
        for name, param in self.params:
            if stored.get(name) is not param:
                return False
        for param, requires_grad in self.trainable:
            if param.requires_grad is not requires_grad:
                return False
        for _, tables in self.modules:
            for table, entries in tables:
                if len(table) != len(entries):
                    return False
                for name, entry in entries.items():
                    if table.get(name) is not entry:
                        return False
        return True
