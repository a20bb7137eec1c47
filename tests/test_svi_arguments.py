"""Arguments of every layout and kind, and what the step makes of them."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_vae.svi import CompiledSVI
from tests.models import keep_the_record

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(3)).double()
Z = torch.complex(X, X + 1)
EYE = torch.eye(4).double()


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


def no_guide(*args):
    pass


def make_model(function):
    """Returns a model of what a function makes of its arguments."""

    def model(*args):
        loc = pyro.param("loc", lambda: torch.zeros(4).double())
        x = function(*args)
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return model


def assert_same(function, make_args, change=lambda step, args: None):
    """Asserts that losses and arguments are those of Pyro's SVI."""
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        args, losses = make_args(), []
        svi = engine(
            make_model(function), no_guide, Adam({"lr": 0.01}), Trace_ELBO()
        )
        for step in range(6):
            losses.append(svi.step(*args))
            change(step, args)
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        given = [t.detach().to_dense().resolve_conj() for t in tensors]
        results.append((losses, given))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
    return svi


def shrink(x):
    return x.mul_(0.9)


def double_if_strided(x):
    return x if x.is_contiguous() else x * 2


def cube_slope(x):
    (grad,) = torch.autograd.grad((x**3).sum(), x)
    return x.detach() + grad


def hessian(x):
    return x + torch.func.hessian(lambda v: (v**3).sum())(x[0]).diagonal()


def transpose_with_a_view(x):
    y = x.clone()
    first = y[0]
    y.t_()
    y.t_()
    first.add_(1)
    return y


LAYOUTS = {
    "transposed": (shrink, lambda: X.T.contiguous().T),
    "columns": (shrink, lambda: torch.cat([X, X], 1)[:, ::2]),
    "asked for": (double_if_strided, lambda: X.T.contiguous().T),
    "as_strided": (
        lambda x: x.as_strided((6, 4), (4, 1)),
        lambda: X.T.contiguous().T,
    ),
    "expanded": (lambda x: 2 * x, lambda: X[:1].expand(6, 4)),
    "conjugated": (lambda z: z.real + z.imag, lambda: Z.conj()),
    "conjugated product": (lambda z: (z * z).real, lambda: Z.conj()),
    "negated": (lambda x: 2 * x, lambda: Z.conj().imag),
    "coo": (lambda x: x.to_dense(), lambda: X.to_sparse()),
    "coo product": (lambda x: torch.sparse.mm(x, EYE), lambda: X.to_sparse()),
    "csr": (lambda x: x @ EYE, lambda: X.to_sparse_csr()),
    "with a gradient": (cube_slope, lambda: X.clone().requires_grad_()),
    "hessian": (hessian, lambda: X),
    "a view before t_": (transpose_with_a_view, lambda: X),
}


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:`torch.jit.script`")
@pytest.mark.parametrize(("function", "make"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(function, make):
    assert_same(function, lambda: (make().clone() if make is X else make(),))


@pytest.mark.parametrize(
    ("dtype", "function"),
    [
        (torch.int32, lambda x, n: x + 1e-12 * (n.sum().item() * 50_000)),
        (torch.uint8, lambda x, n: x + (n[0].item() + n[1].item()) / 100),
        (torch.bool, lambda x, n: x + (n[0].item() + n[1].item()) / 100),
        (torch.float64, lambda x, n: x * round(n.mean().item() / 7, 2)),
    ],
    ids=["int32", "uint8", "bool", "rounded"],
)
def test_items_count_as_pythons_numbers_do(dtype, function):
    counts = torch.full((4,), 200, dtype=torch.int32).to(dtype)
    assert_same(function, lambda: (X.clone(), counts))


def test_a_number_from_a_parameter_is_refused_by_its_line():
    def model():
        loc = pyro.param("loc", torch.tensor(0.5))
        level = torch.tensor(round(loc.item(), 1))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=level)

    svi = CompiledSVI(model, no_guide, Adam({"lr": 0.01}))
    message = r"by tensor.item\(\), in model\(\) at line \d+, so that"
    with pytest.raises(ValueError, match=message):
        svi.step()


NUMBERS = {
    "of float64": (lambda x, b: x * b["b"], 2),
    "divided": (lambda x, b: x * (b["n"] / 3), 2),
    "looked up": (lambda x, b: x * {n: n + 1 for n in range(9)}[b["n"]], 6),
    "printed": (lambda x, b: x * len(f"{b['b'] ** 9:.3g}"), 6),
    "of a kind": (lambda x, b: x * (b["b"] if type(b["b"]) is float else 3), 7),
}


@pytest.mark.parametrize(("function", "most"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_that_change(function, most):
    """Rounded as Python's are, in a pair of float64 among float32s."""
    torch.set_default_dtype(torch.float32)

    def change(step, args):
        args[1].update(b=0.1 * (step + 2), n=step + 1)

    svi = assert_same(function, lambda: (X.clone(), {"b": 0.1, "n": 0}), change)
    assert 1 < svi.num_compilations <= most


def test_an_argument_with_a_gradient_has_a_graph_of_its_own():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        model = make_model(lambda x: 2 * x if x.requires_grad else x)
        svi = engine(model, no_guide, Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(X) for _ in range(5)]
        x = X.clone().requires_grad_()
        results.append([*losses, svi.step(x), svi.step(x)])
    torch.testing.assert_close(*results)


def test_batch_norm_that_hides_what_it_writes():
    """Instance norm has its running statistics averaged over the batch."""
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        norm = nn.InstanceNorm1d(2, track_running_stats=True).double()

        def move(x, norm=norm):
            y = norm(x.reshape(6, 2, 2)).reshape(6, 4)
            return y + norm.running_mean.sum()

        model = make_model(move)
        svi = engine(model, no_guide, Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(X) for _ in range(6)]
        results.append((losses, dict(norm.named_buffers())))
    torch.testing.assert_close(*results)


def test_a_copy_of_svi_goes_on_by_itself():
    """With its own parameters' optimizer, as a copy of Pyro's would."""
    model, states = make_model(lambda x: x), []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(model, no_guide, Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(X) for _ in range(3)]
        other = copy.deepcopy(svi)
        losses += [other.step(X), svi.step(X)]
        states.append(losses)
    torch.testing.assert_close(*states)


def test_a_loss_that_is_put_back_trains_on():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        model = make_model(lambda x: x)
        svi = engine(model, no_guide, Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(X)]
        svi.loss, svi.loss_and_grads = svi.loss, svi.loss_and_grads
        losses += [svi.step(X) for _ in range(3)]

        def double(*args):
            return 2 * Trace_ELBO().loss_and_grads(*args)

        svi.loss_and_grads = double
        assert svi.loss_and_grads is double
        losses += [svi.step(X) for _ in range(3)]
        results.append(losses)
    torch.testing.assert_close(*results)


def test_a_gradient_of_an_argument_is_left_nowhere():
    """Pyro's SVI adds up what no optimizer reads; a compiled step does not."""
    x = X.clone().requires_grad_()
    svi = CompiledSVI(make_model(lambda x: x), no_guide, Adam({"lr": 0.01}))
    for _ in range(3):
        svi.step(x)
        assert x.grad is None


def test_an_optimizer_that_forgets_begins_anew():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(
            make_model(lambda x: x), no_guide, Adam({"lr": 0.01}), Trace_ELBO()
        )
        losses = [svi.step(X) for _ in range(5)]
        svi.optim.optim_objs.clear()
        results.append([*losses, *(svi.step(X) for _ in range(3))])
    torch.testing.assert_close(*results)


def test_the_optimizers_state_has_the_parameters_without_a_gradient():
    def model():
        pyro.param("resting", torch.tensor(1.0))
        loc = pyro.param("loc", torch.tensor(0.5))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(2.0))

    states = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(model, no_guide, Adam({"lr": 0.01}), Trace_ELBO())
        svi.step()
        svi.step()
        states.append(svi.optim.get_state().keys())
    assert states[0] == states[1] == {"loc", "resting"}
