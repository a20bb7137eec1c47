"""The fused updates against Pyro's optimizers, on the same gradients."""

import inspect

import pyro
import pytest
import torch
from pyro.optim import (
    SGD,
    AdagradRMSProp,
    Adam,
    AdamW,
    ClippedAdam,
    ExponentialLR,
    RMSprop,
)
from pyro.optim.clipped_adam import ClippedAdam as TorchClippedAdam
from torch import nn

from pyro_vae.svi.optimizers import make_updates

OPTIMIZERS = {
    "adam": lambda: Adam({"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-3}),
    "decay": lambda: Adam({"lr": 0.02, "weight_decay": 0.1}),
    "amsgrad": lambda: Adam({"lr": 0.02, "amsgrad": True}),
    "maximize": lambda: Adam({"lr": 0.02, "maximize": True}),
    "clip norm": lambda: Adam({"lr": 0.02}, {"clip_norm": 0.5}),
    "clip value": lambda: Adam({"lr": 0.02}, {"clip_value": 0.5}),
    "adamw": lambda: AdamW({"lr": 0.02, "weight_decay": 0.1}),
    "clipped": lambda: ClippedAdam(
        {"lr": 0.02, "lrd": 0.99, "clip_norm": 0.5, "eps": 1e-3}
    ),
    "decoupled": lambda: Adam(
        {"lr": 0.05, "weight_decay": 0.5, "decoupled_weight_decay": True}
    ),
    "momentum": lambda: SGD({"lr": 0.01, "momentum": 0.9}, {"clip_norm": 0.5}),
    "rmsprop": lambda: RMSprop({"lr": 0.01}),
    "adagrad": lambda: AdagradRMSProp({"eta": 0.1}),
    "scheduled": lambda: ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.9}
    ),
    "by name": lambda: Adam(
        lambda name: {"lr": 0.05 if "scale" in name else 0.01}
    ),
}
if "centered_variance" in inspect.signature(TorchClippedAdam).parameters:
    OPTIMIZERS["centered"] = lambda: ClippedAdam(  # Pyro 1.9.0 has it not
        {"lr": 0.02, "centered_variance": True}
    )
SHAPES = {"weight": (3, 4), "scale": (4,), "bias": ()}


def announce():
    """Makes parameters, in order of their names, in Pyro's store."""
    torch.manual_seed(0)
    params = []
    for name, shape in SHAPES.items():
        params.append(nn.Parameter(torch.randn(shape)))
        pyro.param(name, params[-1])
    return params


def make_update(optim, params):
    """Returns a function that updates all of some parameters."""
    updates = make_updates(optim)
    index = updates.add(params)
    return lambda grads, skip: updates.step(index, grads, skip)


def step_eagerly(optim, params, grads):
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    optim(params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_pyros_optimizer(name):
    """Also where each engine goes on with the state that the other left."""
    ends = []
    for fused_from, fused_to in ((30, 30), (0, 30), (7, 21)):
        with pyro.get_param_store().scope():
            params, optim, update = announce(), OPTIMIZERS[name](), None
            for step in range(30):
                grads = [3 * torch.randn(p.shape) for p in params]
                if fused_from <= step < fused_to:
                    update = update or make_update(optim, params)
                    with torch.no_grad():
                        update(grads, None)
                else:
                    step_eagerly(optim, params, grads)
            ends.append(torch.cat([p.detach().flatten() for p in params]))
    expected, *others = ends
    for end in others:
        torch.testing.assert_close(end, expected, rtol=1e-11, atol=1e-11)


# The others have no state that may be cleared.
@pytest.mark.parametrize(
    "name", [n for n in OPTIMIZERS if n not in ("scheduled", "adagrad")]
)
def test_a_parameter_may_begin_to_count_anew(name):
    """Its correction of the bias is another one than the others' then."""
    ends = []
    for is_fused in (False, True):
        with pyro.get_param_store().scope():
            params, optim = announce(), OPTIMIZERS[name]()
            update = make_update(optim, params) if is_fused else None
            for step in range(12):
                if step == 5:
                    optim.optim_objs[params[1]].state.clear()
                grads = [3 * torch.randn(p.shape) for p in params]
                if update is None:
                    step_eagerly(optim, params, grads)
                    continue
                with torch.no_grad():
                    update(grads, None)
            ends.append(torch.cat([p.detach().flatten() for p in params]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_flag_skips_the_update_as_if_it_had_not_been(name):
    ends = []
    for flags in ([0, 0], [0, 1, 0], [1, 0, 0]):
        with pyro.get_param_store().scope():
            params, optim = announce(), OPTIMIZERS[name]()
            update = make_update(optim, params)
            gradients = [torch.randn(2, *p.shape) for p in params]
            number = 0
            for flag in flags:
                grads = [grad[number].clone() for grad in gradients]
                with torch.no_grad():
                    if flag:
                        grads = [torch.full_like(g, torch.nan) for g in grads]
                    skip = torch.tensor(flag, dtype=torch.float32)
                    update(grads, skip)
                number += 1 - flag
            ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_no_kernel_reads_a_gradient_of_another_shape_or_layout():
    param = nn.Parameter(torch.zeros(3, 4))
    pyro.param("param", param)
    update = make_update(Adam({"lr": 0.1}), [param])
    with pytest.raises(ValueError, match=r"shape \(4, 3\).*\(3, 4\)"):
        update([torch.ones(4, 3)], None)
    # One number in memory, and columns where the parameter has rows.
    for grad in (torch.ones(1).expand(3, 4), torch.rand(4, 3).t()):
        before = param.detach().clone()
        update([grad], None)
        moved = param.detach() - before
        assert ((moved < 0) & (moved > -0.2)).all()


def test_two_kinds_of_steps_share_what_they_have_in_common():
    """Parameters that only every second step updates count their own steps."""
    ends = []
    for is_fused in (False, True):
        with pyro.get_param_store().scope():
            params, optim = announce(), Adam({"lr": 0.02})
            updates = make_updates(optim)
            for step in range(20):
                chosen = params if step % 2 else params[:2]
                grads = [torch.randn(p.shape) for p in chosen]
                if is_fused:
                    with torch.no_grad():
                        updates.step(updates.add(chosen), grads, None)
                else:
                    step_eagerly(optim, chosen, grads)
                    for param in params:
                        param.grad = None
            ends.append(torch.cat([p.detach().flatten() for p in params]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(ValueError, match="of type Linear; expected one of"):
        make_updates(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="LBFGS, which evaluates the loss"):
        make_updates(torch.optim.LBFGS([nn.Parameter(torch.zeros(1))]))
