"""One kernel for the parameters of a Pyro optimizer that share its options.

`PyroOptim` holds a torch optimizer for each parameter and steps them one by
one: some ten small kernels and a page of Python each, which for a VAE takes
longer than the compiled loss and its gradients do. Options and state stay in
the Pyro optimizer, where Pyro's own SVI looks for them: a fit can change
engines at any step.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor

from pyro_vae.svi.compat import (
    foreach_clamp_max_,
    foreach_clamp_min_,
    foreach_mul_,
    foreach_norm,
    fused_adam_,
    fused_adamw_,
)
from pyro_vae.svi.compat_pyro import (
    adopt_parameters,
    get_clip_options,
    get_constructor,
    get_torch_optimizers,
)
from pyro_vae.svi.equality import are_same
from pyro_vae.svi.updates import Updates

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # torch's names


class FusedUpdates(Updates):
    """Adam, AdamW and ClippedAdam, a kernel for each set of options."""

    optim: PyroOptim

    def __init__(self, optim: PyroOptim):
        super().__init__(optim)
        self._groups: list[tuple[_Members, _Group]] = []
        self._known: list[torch.optim.Optimizer] = []

    def add(self, params: list[Tensor]) -> int:
        count = len(self.sets)
        index = super().add(params)
        if len(self.sets) > count:
            adopt_parameters(self.optim, params)
            self._regroup()
        return index

    def step(
        self, index: int, grads: Sequence[Tensor], skip: Tensor | None
    ) -> None:
        known = list(get_torch_optimizers(self.optim).values())
        if not are_same(known, self._known) or any(
            group.has_changed() for _, group in self._groups
        ):
            for params in self.sets:
                adopt_parameters(self.optim, params)
            self._regroup()
        grads = [
            laid_out_like(param, grad)
            for param, grad in zip(self.sets[index], grads, strict=True)
        ]
        for members, group in self._groups:
            if index in members:
                group.update([grads[at] for at in members[index]], skip)

    def _regroup(self) -> None:
        """Puts parameters of one kind and with the same options together.

        Parameters of one group also belong to the same sets, for they count
        their steps together.
        """
        places: dict[Tensor, dict[int, int]] = {}
        for index, params in enumerate(self.sets):
            for place, param in enumerate(params):
                places.setdefault(param, {})[index] = place
        groups: dict[str, list[Tensor]] = {}
        for param, members in places.items():
            options = _read_options(self.optim, param)
            clip = get_clip_options(self.optim, param)
            kind: tuple[Any, ...] = (param.device, param.dtype, sorted(members))
            if get_constructor(self.optim) is ClippedAdam:
                # Their one correction of the bias is that of one count.
                state = get_torch_optimizers(self.optim)[param].state[param]
                kind += (int(state.get("step", 0)),)
            key = repr((kind, sorted(options.items()), sorted(clip.items())))
            groups.setdefault(key, []).append(param)
        self._groups = [
            (
                {i: [places[p][i] for p in params] for i in places[params[0]]},
                _Group(self.optim, params),
            )
            for params in groups.values()
        ]
        self._known = list(get_torch_optimizers(self.optim).values())


_Members = dict[int, list[int]]  # of each set, the places of a group's members


class _Group:
    """Parameters of one dtype and device that share all options."""

    def __init__(self, optim: PyroOptim, params: Sequence[Tensor]):
        self.params = list(params)
        kind = get_constructor(optim)
        self.is_clipped_adam = kind is ClippedAdam
        self.optimizers = [get_torch_optimizers(optim)[p] for p in params]
        self.options = [each.param_groups[0] for each in self.optimizers]
        is_decoupled = kind is torch.optim.AdamW or self.options[0].get(
            "decoupled_weight_decay"
        )
        self.kernel = fused_adamw_ if is_decoupled else fused_adam_
        self.seen = [dict(options) for options in self.options]
        self.addresses = [param.data_ptr() for param in params]
        self.clip = get_clip_options(optim, params[0])
        self.states: list[dict[str, Any]] = [
            each.state[p]
            for each, p in zip(self.optimizers, params, strict=True)
        ]
        self.amsgrad = self.options[0].get("amsgrad", False)
        self._fill_states()
        self.averages, self.squares, self.maxima = (
            [state[name] for state in self.states if name in state]
            for name in _MOMENTS
        )
        self._held = self._list_held()

    def _fill_states(self) -> None:
        """Makes what the states lack, as the kernels want it."""
        done = [float(state.get("step", 0)) for state in self.states]
        # One tensor to count in, of which each parameter's count is a part.
        self.counts = torch.tensor(
            done, dtype=torch.float32, device=self.params[0].device
        )
        # Added as a tensor: torch takes longer to make one of a number.
        self.one = torch.ones_like(self.counts)
        self.steps = list(self.counts)
        for index, (param, state) in enumerate(
            zip(self.params, self.states, strict=True)
        ):
            for name in _MOMENTS[: 3 if self.amsgrad else 2]:
                moment = state.get(name, None)
                state[name] = (
                    torch.zeros_like(param)
                    if moment is None
                    else laid_out_like(param, moment)
                )
            state["step"] = (
                int(done[index]) if self.is_clipped_adam else self.steps[index]
            )

    def has_changed(self) -> bool:
        """Returns whether options, state or memory were set anew since then."""
        states = [s for each in self.optimizers for s in each.state.values()]
        return not (
            [each.param_groups[0] for each in self.optimizers] == self.seen
            and are_same(states, self.states)
            and are_same(self._list_held(), self._held)
            and self.addresses == [param.data_ptr() for param in self.params]
        )

    def _list_held(self) -> list[Any]:
        """Returns what the states hold: moments and counts."""
        return [*chain.from_iterable(state.values() for state in self.states)]

    def update(self, grads: list[Tensor], skip: Tensor | None) -> None:
        """Updates the parameters, and nothing where the flag `skip` is 1."""
        if self.is_clipped_adam and skip is not None:
            if skip.item():
                return  # it counts in Python
            skip = None
        options = self.options[0]
        lr, eps = options["lr"], options["eps"]
        beta1, beta2 = options["betas"]
        self._clip(grads, options)
        self.counts.add_(self.one if skip is None else 1 - skip)
        if self.is_clipped_adam:
            lr, eps = self._count_clipped_adam(eps, beta2)
        self.kernel(
            self.params,
            grads,
            self.averages,
            self.squares,
            self.maxima,
            self.steps,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=options["weight_decay"],
            eps=eps,
            amsgrad=self.amsgrad,
            maximize=options.get("maximize", False),
            grad_scale=None,
            found_inf=skip,
        )

    def _clip(self, grads: list[Tensor], options: dict[str, Any]) -> None:
        """Clips as Pyro does: each parameter's gradient by itself."""
        norm, value = self.clip.get("clip_norm"), self.clip.get("clip_value")
        if norm is not None:
            norms = foreach_norm(grads)
            ratios = [(norm / (n + 1e-6)).clamp(max=1.0) for n in norms]
            foreach_mul_(grads, ratios)
        if self.is_clipped_adam:
            value = min(
                options["clip_norm"], math.inf if value is None else value
            )
        if value is not None:
            foreach_clamp_min_(grads, -value)
            foreach_clamp_max_(grads, value)

    def _count_clipped_adam(
        self, eps: float, beta2: float
    ) -> tuple[float, float]:
        """Decays the step size, and moves eps to where ClippedAdam has it.

        It adds eps to the root of the second moment before its bias is
        corrected, which is Adam with eps over the root of the correction.
        """
        for options, seen, state in zip(
            self.options, self.seen, self.states, strict=True
        ):
            seen["lr"] = options["lr"] = options["lr"] * options["lrd"]
            state["step"] += 1
        self._held = self._list_held()  # their counts are Python's
        self.counts.fill_(self.states[0]["step"])
        correction = 1 - beta2 ** self.states[0]["step"]
        return self.options[0]["lr"], eps / math.sqrt(correction)


def laid_out_like(param: Tensor, tensor: Tensor) -> Tensor:
    """Returns a tensor whose memory is laid out as the parameter's.

    The fused kernels walk through memory and check neither shape nor strides
    nor type: given another one they would read beyond a buffer.

    Raises:
        ValueError: If the tensor is of another shape.
    """
    if tensor.shape != param.shape:
        raise ValueError(
            f"a gradient or moment has shape {tuple(tensor.shape)} for a "
            f"parameter of shape {tuple(param.shape)}; expected the same: "
            "the optimizer's state or the parameter was replaced"
        )
    if tensor.stride() == param.stride() and tensor.dtype == param.dtype:
        return tensor
    return torch.empty_like(param).copy_(tensor)


def _read_options(optim: PyroOptim, param: Tensor) -> dict[str, Any]:
    options = get_torch_optimizers(optim)[param].param_groups[0]
    return {name: options[name] for name in options if name != "params"}
