"""Updates of many parameters at once, and an optimiser's state as tensors.

The state lives in the Pyro optimiser, one torch optimiser per parameter, where
Pyro's own SVI looks for it: a fit can change engines at any step.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from pyro import get_param_store
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor, nn

Update = Callable[[Sequence[Tensor], Tensor | None], None]


def make_update(
    optim: PyroOptim | torch.optim.Optimizer, params: Sequence[Tensor]
) -> Update:
    """Makes the function that updates parameters in place.

    Args:
        optim: `pyro.optim.Adam`, `AdamW` or `ClippedAdam`, or a torch
            optimiser, which updates those of the parameters that it was given.
        params: The unconstrained parameters.

    Returns:
        A function of the gradients and of a flag, a tensor or None: where the
        flag is 1, nothing is updated.

    Raises:
        ValueError: For another optimiser.
    """
    check_optimizer(optim)
    if isinstance(optim, torch.optim.Optimizer):
        return _TorchUpdate(optim, params)
    return _FusedUpdate(optim, params)


def check_optimizer(optim: object) -> None:
    """Refuses what `make_update` cannot take, with a sentence."""
    if isinstance(optim, torch.optim.LBFGS):
        raise ValueError(
            "the optimiser is LBFGS, which evaluates the loss itself; expected "
            "one that steps on given gradients"
        )
    if isinstance(optim, torch.optim.Optimizer):
        return
    kind = getattr(optim, "pt_optim_constructor", None)
    if kind not in (torch.optim.Adam, torch.optim.AdamW, ClippedAdam):
        name = getattr(kind, "__name__", type(optim).__name__)
        raise ValueError(
            f"the optimiser is {name}; expected pyro.optim.Adam, AdamW or "
            "ClippedAdam, or a torch optimiser over given parameters: use "
            "pyro.infer.SVI for another one"
        )


class _TorchUpdate:
    """A torch optimiser's own step."""

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
        _adopt(optim, params)
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
            options = _options(self.optim, param)
            clip = self.optim._get_grad_clip_args(param)
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
    """Parameters that share all options."""

    def __init__(self, optim: PyroOptim, params: Sequence[Tensor]):
        self.params = params
        self.options = [
            optim.optim_objs[param].param_groups[0] for param in params
        ]
        self.seen = _options(optim, params[0])
        self.decoupled = optim.pt_optim_constructor is torch.optim.AdamW
        self.states = [optim.optim_objs[p].state[p] for p in params]
        self.clip = optim._get_grad_clip_args(params[0])
        self.clipped_adam = optim.pt_optim_constructor is ClippedAdam
        self.amsgrad = self.options[0].get("amsgrad", False)
        device = params[0].device
        done = [float(state.get("step", 0)) for state in self.states]
        # One tensor to count in, of which each parameter's count is a part.
        self.counts = torch.tensor(done, dtype=torch.float32, device=device)
        names = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
        for index, (param, state) in enumerate(
            zip(params, self.states, strict=True)
        ):
            for name in names[: 3 if self.amsgrad else 2]:
                moment = state.get(name, None)
                state[name] = (
                    torch.zeros_like(param)
                    if moment is None
                    else laid_out_like(param, moment)
                )
            state["step"] = (
                int(done[index]) if self.clipped_adam else self.counts[index]
            )
        self.steps = list(self.counts)
        self.averages, self.squares, self.maxima = (
            [state[name] for state in self.states if name in state]
            for name in names
        )

    def has_changed(self) -> bool:
        """Whether an option was set anew since the group was made."""
        return any(
            options[name] != value
            for options in self.options
            for name, value in self.seen.items()
        ) or any(
            param.stride() != average.stride()
            for param, average in zip(self.params, self.averages, strict=True)
        )

    def update(self, grads: list[Tensor], skip: Tensor | None) -> None:
        if self.clipped_adam and skip is not None:
            if skip.item():
                return  # it counts in Python
            skip = None
        options = self.options[0]
        lr, eps = options["lr"], options["eps"]
        beta1, beta2 = options["betas"]
        self._clip(grads, options)
        self.counts.add_(1 if skip is None else 1 - skip)
        if self.clipped_adam:
            lr, eps = self._count_clipped_adam(lr, eps, beta2)
        fused = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        fused(
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

    def _clip(self, grads: list[Tensor], options: dict) -> None:
        """Clips as Pyro does: each parameter's gradient by itself."""
        norm, value = (self.clip.get(f"clip_{n}") for n in ("norm", "value"))
        if norm is not None:
            norms = torch._foreach_norm(grads)
            ratios = [(norm / (n + 1e-6)).clamp(max=1.0) for n in norms]
            torch._foreach_mul_(grads, ratios)
        if self.clipped_adam:
            value = min(
                options["clip_norm"], math.inf if value is None else value
            )
        if value is not None:
            torch._foreach_clamp_min_(grads, -value)
            torch._foreach_clamp_max_(grads, value)

    def _count_clipped_adam(
        self, lr: float, eps: float, beta2: float
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


def _adopt(optim: PyroOptim, params: Iterable[Tensor]) -> None:
    """Makes parameters' optimisers as `PyroOptim` does before it first steps.

    Its call would make them, too, but take the step as well.
    """
    for param in params:
        if param in optim.optim_objs:
            continue
        optim.optim_objs[param] = optim._get_optim(param)
        optim.grad_clip[param] = optim._get_grad_clip(param)
        name = get_param_store().param_name(param)
        state = optim._state_waiting_to_be_consumed.pop(name, None)
        if state is not None:
            optim.optim_objs[param].load_state_dict(state)


def _options(optim: PyroOptim, param: Tensor) -> dict:
    options = optim.optim_objs[param].param_groups[0]
    return {name: options[name] for name in options if name != "params"}


def set_learning_rate(
    optim: PyroOptim, parameters: Iterable[nn.Parameter], rate: float
) -> None:
    """Sets the step size of parameters from the next step on.

    Both engines look for it where it is set, in each parameter's optimiser.
    """
    for parameter in parameters:
        if parameter.requires_grad:
            _adopt(optim, [parameter])
            optim.optim_objs[parameter].param_groups[0]["lr"] = rate


def optimizer_state(
    optim: PyroOptim, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """Returns the optimiser's state, named by parameter, as tensors.

    Args:
        optim: A Pyro optimiser.
        parameters: The module's `named_parameters()`.

    Returns:
        Entries such as `decoder.0.weight.exp_avg`; none for a parameter that
        has not been stepped.
    """
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in parameters
        if parameter in optim.optim_objs
        for key, value in optim.optim_objs[parameter].state[parameter].items()
    }


def load_optimizer_state(
    optim: PyroOptim,
    parameters: Iterable[tuple[str, nn.Parameter]],
    state: dict[str, Tensor],
) -> None:
    """Puts back what `optimizer_state` returned, on the parameters' device."""
    for name, parameter in parameters:
        entries = {
            key.removeprefix(f"{name}."): value
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
        if entries:
            _adopt(optim, [parameter])
            optim.optim_objs[parameter].state[parameter] = {
                key: value.to(parameter.device) if value.dim() else value
                for key, value in entries.items()
            }
