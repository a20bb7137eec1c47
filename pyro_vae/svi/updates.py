"""Updates of all parameters at once, with Pyro's optimizers.

`PyroOptim` holds a torch optimizer for each parameter and steps them one by
one: some ten small kernels and a page of Python each, which for a VAE takes
longer than the compiled loss and its gradients do. Here one fused kernel
updates all parameters that share their options. Options and state stay in the
Pyro optimizer, where Pyro's own SVI looks for them: a fit can change engines
at any step.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
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

Update = Callable[[Sequence[Tensor], Tensor | None], None]

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # torch's names


def make_update(
    optim: PyroOptim | torch.optim.Optimizer, params: Sequence[Tensor]
) -> Update:
    """Makes the function that updates parameters in place.

    Args:
        optim: `pyro.optim.Adam`, `AdamW` or `ClippedAdam`, or a torch
            optimizer, which updates those of the parameters that it was given.
        params: The unconstrained parameters.

    Returns:
        A function of the gradients and of a flag, a tensor or None: where the
        flag is 1, nothing is updated.

    Raises:
        ValueError: For another optimizer.
    """
    check_optimizer(optim)
    if isinstance(optim, torch.optim.Optimizer):
        return _TorchUpdate(optim, params)
    return _FusedUpdate(optim, params)


def check_optimizer(optim: object) -> None:
    """Raises ValueError for an optimizer that `make_update` cannot take."""
    if isinstance(optim, torch.optim.LBFGS):
        raise ValueError(
            "the optimizer is LBFGS, which evaluates the loss itself; expected "
            "one that steps on given gradients"
        )
    if isinstance(optim, torch.optim.Optimizer):
        return
    kind = get_constructor(optim) if isinstance(optim, PyroOptim) else None
    if kind not in (torch.optim.Adam, torch.optim.AdamW, ClippedAdam):
        name = getattr(kind, "__name__", type(optim).__name__)
        raise ValueError(
            f"the optimizer is {name}; expected pyro.optim.Adam, AdamW or "
            "ClippedAdam, or a torch optimizer over given parameters: use "
            "pyro.infer.SVI for another one"
        )


class _TorchUpdate:
    """A torch optimizer's own step."""

    def __init__(self, optim: torch.optim.Optimizer, params: Sequence[Tensor]):
        self.optim, self.params = optim, params

    def __call__(self, grads: Sequence[Tensor], skip: Tensor | None) -> None:
        if skip is not None and skip.item():
            return
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad
        self.optim.step()
        for param in self.params:
            param.grad = None


class _FusedUpdate:
    """Adam, AdamW and ClippedAdam, a kernel for each set of options."""

    def __init__(self, optim: PyroOptim, params: Sequence[Tensor]):
        self.optim, self.params = optim, params
        adopt_parameters(optim, params)
        self._regroup()

    def __call__(self, grads: Sequence[Tensor], skip: Tensor | None) -> None:
        if any(group.has_changed() for _, group in self.groups):
            self._regroup()
        grads = [
            laid_out_like(param, grad)
            for param, grad in zip(self.params, grads, strict=True)
        ]
        for indices, group in self.groups:
            group.update([grads[index] for index in indices], skip)

    def _regroup(self) -> None:
        """Puts parameters of one kind and with the same options together."""
        groups: dict[str, list[int]] = {}
        for index, param in enumerate(self.params):
            options = _read_options(self.optim, param)
            clip = get_clip_options(self.optim, param)
            if options.get("centered_variance"):
                raise ValueError(
                    "ClippedAdam has centered_variance=True; expected False: "
                    "use pyro.infer.SVI"
                )
            kind = (param.device, param.dtype)
            key = repr((kind, sorted(options.items()), sorted(clip.items())))
            groups.setdefault(key, []).append(index)
        self.groups = [
            (
                indices,
                _Group(self.optim, [self.params[index] for index in indices]),
            )
            for indices in groups.values()
        ]


class _Group:
    """Parameters of one dtype and device that share all options."""

    def __init__(self, optim: PyroOptim, params: Sequence[Tensor]):
        self.params = list(params)
        kind = get_constructor(optim)
        self.is_clipped_adam = kind is ClippedAdam
        self.kernel = fused_adamw_ if kind is torch.optim.AdamW else fused_adam_
        optimizers = get_torch_optimizers(optim)
        self.options = [optimizers[p].param_groups[0] for p in params]
        self.seen = _read_options(optim, params[0])
        self.clip = get_clip_options(optim, params[0])
        self.states = [optimizers[p].state[p] for p in params]
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
                int(done[index]) if self.is_clipped_adam else self.counts[index]
            )

    def has_changed(self) -> bool:
        """Returns whether an option was set anew since the group was made."""
        return any(
            options[name] != value
            for options in self.options
            for name, value in self.seen.items()
        ) or any(
            param.stride() != average.stride()
            for param, average in zip(self.params, self.averages, strict=True)
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

    The fused kernels walk through memory and check neither shape nor strides:
    given another shape they would read beyond a buffer.

    Raises:
        ValueError: If the tensor is of another shape.
    """
    if tensor.shape != param.shape:
        raise ValueError(
            f"a gradient or moment has shape {tuple(tensor.shape)} for a "
            f"parameter of shape {tuple(param.shape)}; expected the same: "
            "the optimizer's state or the parameter was replaced"
        )
    if tensor.stride() == param.stride():
        return tensor
    return torch.empty_like(param, dtype=tensor.dtype).copy_(tensor)


def _read_options(optim: PyroOptim, param: Tensor) -> dict[str, Any]:
    options = get_torch_optimizers(optim)[param].param_groups[0]
    return {name: options[name] for name in options if name != "params"}
