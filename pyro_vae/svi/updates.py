"""Updates of all parameters at once, with Pyro's optimizers.

`PyroOptim` holds a torch optimizer for each parameter and steps them one by
one: some ten small kernels and a page of Python each, which for a VAE takes
longer than the compiled loss and its gradients do. Here one fused kernel
updates all parameters that share their options. Options and state stay in the
Pyro optimizer, where Pyro's own SVI looks for them: a fit can change engines
at any step.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyro_vae.svi.compat import (
    adopt_parameters,
    foreach_clamp_max_,
    foreach_clamp_min_,
    foreach_mul_,
    foreach_norm,
    fused_adam_,
    fused_adamw_,
    get_clip_options,
    get_constructor,
    get_torch_optimizers,
)

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # torch's names


class Updates(ABC):
    """Updates parameters in place, given their gradients.

    A step may update a part of the parameters: those that the pair announced
    in it. The sets of parameters that steps update are registered by `add`.
    """

    def __init__(self) -> None:
        self.sets: list[list[Tensor]] = []

    def add(self, params: Sequence[Tensor]) -> int:
        """Registers the parameters of a kind of step, and returns its index."""
        for index, known in enumerate(self.sets):
            if [*map(id, known)] == [*map(id, params)]:
                return index
        self.sets.append(list(params))
        return len(self.sets) - 1

    @abstractmethod
    def step(
        self, index: int, grads: Sequence[Tensor], skip: Tensor | None
    ) -> None:
        """Updates the parameters of a registered set.

        Args:
            index: The set's index.
            grads: The gradients of its parameters, in their order.
            skip: Where this flag is 1, nothing is updated.
        """


def make_updates(optim: PyroOptim | torch.optim.Optimizer) -> Updates:
    """Returns what updates parameters as an optimizer does.

    Args:
        optim: A Pyro optimizer; `Adam`, `AdamW` and `ClippedAdam` become one
            kernel, the others step as in Pyro. Or a torch optimizer, which
            updates those of the parameters that it was given.

    Raises:
        ValueError: For another optimizer.
    """
    check_optimizer(optim)
    if isinstance(optim, torch.optim.Optimizer):
        return _TorchUpdates(optim)
    if _is_fusible(optim):
        return _FusedUpdates(optim)
    return _PyroUpdates(optim)


def check_optimizer(optim: object) -> None:
    """Raises ValueError for an optimizer that `make_updates` cannot take."""
    kind = get_constructor(optim) if isinstance(optim, PyroOptim) else None
    if isinstance(optim, torch.optim.LBFGS) or kind is torch.optim.LBFGS:
        raise ValueError(
            "the optimizer is LBFGS, which evaluates the loss itself; expected "
            "one that steps on given gradients"
        )
    if not isinstance(optim, PyroOptim | torch.optim.Optimizer):
        raise ValueError(
            f"the optimizer is of type {type(optim).__name__}; expected one of "
            "pyro.optim, or a torch optimizer over given parameters"
        )


_FUSED = (torch.optim.Adam, torch.optim.AdamW, ClippedAdam)


def _is_fusible(optim: PyroOptim) -> bool:
    """Returns whether one kernel can do what an optimizer does."""
    if isinstance(optim, PyroLRScheduler):
        return False
    options = optim.pt_optim_args
    is_centered = isinstance(options, dict) and options.get("centered_variance")
    return get_constructor(optim) in _FUSED and not is_centered


class _EagerUpdates(Updates):
    """Steps as the optimizer itself does, on gradients that it is given."""

    def step(
        self, index: int, grads: Sequence[Tensor], skip: Tensor | None
    ) -> None:
        if skip is not None and skip.item():
            return
        params = self.sets[index]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()  # the graph will write there again
        try:
            self._take_step(params)
        finally:
            for param in params:
                param.grad = None

    @abstractmethod
    def _take_step(self, params: list[Tensor]) -> None:
        """Steps on the parameters' `.grad`."""


class _TorchUpdates(_EagerUpdates):
    def __init__(self, optim: torch.optim.Optimizer):
        super().__init__()
        self.optim = optim

    def _take_step(self, params: list[Tensor]) -> None:
        self.optim.step()


class _PyroUpdates(_EagerUpdates):
    def __init__(self, optim: PyroOptim):
        super().__init__()
        self.optim = optim

    def _take_step(self, params: list[Tensor]) -> None:
        self.optim(params)


class _FusedUpdates(Updates):
    """Adam, AdamW and ClippedAdam, a kernel for each set of options."""

    def __init__(self, optim: PyroOptim):
        super().__init__()
        self.optim = optim
        self._groups: list[tuple[_Members, _Group]] = []

    def add(self, params: Sequence[Tensor]) -> int:
        count = len(self.sets)
        index = super().add(params)
        if len(self.sets) > count:
            adopt_parameters(self.optim, params)
            self._regroup()
        return index

    def step(
        self, index: int, grads: Sequence[Tensor], skip: Tensor | None
    ) -> None:
        if any(group.has_changed() for _, group in self._groups):
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
            kind = (param.device, param.dtype, sorted(members))
            key = repr((kind, sorted(options.items()), sorted(clip.items())))
            groups.setdefault(key, []).append(param)
        self._groups = [
            (
                {i: [places[p][i] for p in params] for i in places[params[0]]},
                _Group(self.optim, params),
            )
            for params in groups.values()
        ]


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
        self.seen = _read_options(optim, params[0])
        self.clip = get_clip_options(optim, params[0])
        self.states = [
            each.state[p]
            for each, p in zip(self.optimizers, params, strict=True)
        ]
        self.amsgrad = self.options[0].get("amsgrad", False)
        self._fill_states()
        self.averages, self.squares, self.maxima = (
            [state[name] for state in self.states if name in state]
            for name in _MOMENTS
        )

    def _fill_states(self) -> None:
        """Makes what the states lack, as the kernels want it."""
        done = [float(state.get("step", 0)) for state in self.states]
        # One tensor to count in, of which each parameter's count is a part.
        self.counts = torch.tensor(
            done, dtype=torch.float32, device=self.params[0].device
        )
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
        """Returns whether options or state were set anew since then."""
        return any(
            options is not each.param_groups[0]
            or any(options[name] != value for name, value in self.seen.items())
            for each, options in zip(self.optimizers, self.options, strict=True)
        ) or any(
            each.state.get(param) is not state
            or state["exp_avg"] is not average
            or (not self.is_clipped_adam and state["step"] is not step)
            or param.stride() != average.stride()
            or param.dtype != average.dtype
            for each, param, state, step, average in zip(
                self.optimizers,
                self.params,
                self.states,
                self.steps,
                self.averages,
                strict=True,
            )
        )

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
        self.counts.add_(1 if skip is None else 1 - skip)
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
        for options, state in zip(self.options, self.states, strict=True):
            options["lr"] *= options["lrd"]
            state["step"] += 1
        self.seen["lr"] = self.options[0]["lr"]
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
