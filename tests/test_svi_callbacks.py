"""What a library calls back, and what helpers and hooks do, is seen."""

import contextvars
import copy
import math
import weakref
from collections import defaultdict, deque
from dataclasses import dataclass
from fractions import Fraction
from functools import partial, partialmethod

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import SGD, Adam, SparseAdam
from torch import nn

from pyro_vae.svi import (
    CompiledSVI,
    CompiledTrace_ELBO,
    DynamicPairError,
    NonFiniteLossError,
)
from pyro_vae.svi.hooks import call_hooks
from tests.models import keep_the_record

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(5)).double()
Y = X.sum(1)
LEVEL = contextvars.ContextVar("LEVEL", default=1.0)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)
    HOLDER.__init__()


class Holder:
    """Something of the user's, which holds a number and more."""

    beta = 1.0

    def __init__(self):
        self.level, self.z, self.held = 1.0, torch.zeros(3), None
        self.n, self.log = 0, {}
        self.inner = None

    def get(self):
        return self.inner

    def parts(self):
        return [self.inner, self.inner]


HOLDER = Holder()


def find_holder():
    return HOLDER


def level_of(holder):
    return holder.level


def inner_level_of(holder):
    return level_of(holder.inner)


class Scaled(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value) * HOLDER.level


class OfClass(dist.Normal):
    beta = 1.0

    def log_prob(self, value):
        return super().log_prob(value) * self.beta


class Reverse(torch.autograd.Function):
    """Its gradient alone is scaled."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * HOLDER.level


class Annealing(poutine.messenger.Messenger):
    def _pyro_sample(self, msg):
        msg["scale"] = HOLDER.level * msg["scale"]


class Partial:
    def scale(self, factor):
        return factor * HOLDER.level

    double = partialmethod(scale, 2.0)


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.tau = 1.0
        self.weight = PyroSample(
            lambda self: dist.Normal(0.0, self.tau).expand([3]).to_event(1)
        )

    def forward(self):
        return X @ self.weight


def use(weight, scale=0.5, kind=dist.Normal):
    with pyro.plate("data", 20):
        pyro.sample("y", kind(X @ weight, scale), obs=Y)


def get_weight():
    return pyro.param("w", lambda: torch.ones(3))


def annealed():
    with Annealing():
        use(get_weight())


def sampled():
    loc = MODULE()
    with pyro.plate("data", 20):
        pyro.sample("y", dist.Normal(loc, 0.5), obs=Y)


MODULE = Regression()


def set_tau(value):
    MODULE.tau = value


def set_class(value):
    OfClass.beta = value


def set_level(value):
    HOLDER.level = value


def set_inner(value):
    HOLDER.inner = HOLDER.inner or Holder()
    HOLDER.inner.level = value


READING = {
    "a helper": (lambda: use(get_weight(), level_of(HOLDER)), set_level),
    "a helper's helper": (
        lambda: use(get_weight(), inner_level_of(HOLDER)),
        set_inner,
    ),
    "an accessor": (lambda: use(get_weight(), find_holder().level), set_level),
    "a method": (lambda: use(get_weight(), HOLDER.get().level), set_inner),
    "a loop over parts": (
        lambda: use(get_weight(), sum(p.level for p in HOLDER.parts())),
        set_inner,
    ),
    "a distribution": (lambda: use(get_weight(), kind=Scaled), set_level),
    "a distribution's class": (
        lambda: use(get_weight(), kind=OfClass),
        set_class,
    ),
    "a gradient": (lambda: use(Reverse.apply(get_weight())), set_level),
    "a handler": (annealed, set_level),
    "a partial method": (
        lambda: use(get_weight(), Partial().double()),
        set_level,
    ),
    "a prior": (sampled, set_tau),
    "a context variable": (lambda: use(get_weight(), LEVEL.get()), LEVEL.set),
    "a weak reference": (
        lambda: use(get_weight(), weakref.ref(HOLDER)().level),
        set_level,
    ),
}


@pytest.mark.parametrize(("model", "change"), READING.values(), ids=READING)
def test_what_is_read_elsewhere_is_seen(model, change):
    """At steps 6 and 7, which are not compared with eager ones."""
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        change(1.0)
        torch.manual_seed(0)
        guide = AutoNormal(model)
        svi = engine(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step() for _ in range(5)]
        change(1.5)
        losses += [svi.step() for _ in range(2)]
        change(1.0)
        results.append([*losses, *(svi.step() for _ in range(2))])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


class Easy(EasyGuide):
    def guide(self):
        loc = pyro.param("loc", torch.zeros(3))
        pyro.sample("w", dist.Normal(loc, HOLDER.level).to_event(1))


def model():
    prior = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    use(pyro.sample("w", prior))


def test_a_guide_that_pyro_calls():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        set_level(1.0)
        torch.manual_seed(0)
        svi = engine(model, Easy(model), Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step() for _ in range(5)]
        set_level(0.5)
        results.append([*losses, *(svi.step() for _ in range(2))])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


def test_data_that_a_gaussian_process_is_given():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        process = gp.models.GPRegression(
            X, Y, gp.kernels.RBF(3), noise=torch.tensor(0.1)
        )
        svi = engine(
            process.model, process.guide, Adam({"lr": 0.05}), Trace_ELBO()
        )
        losses = [svi.step() for _ in range(5)]
        process.set_data(X[:12], Y[:12])
        losses.append(svi.step())
        process.set_data(X[:12], Y[1:13])
        results.append([*losses, svi.step()])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


def keep(holder, z):
    holder.z = z


def average(holder, z):
    holder.z.mul_(0.9).add_(0.1 * z)


@pytest.mark.parametrize(
    "write", [keep, average, lambda holder, z: setattr(holder, "z", z)]
)
def test_a_tensor_that_a_helper_leaves_is_left(write):
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        holder, seen = Holder(), []

        def model(holder=holder):
            prior = dist.Normal(torch.zeros(3), 1.0).to_event(1)
            w = pyro.sample("w", prior)
            write(holder, w.detach())
            use(w)

        guide = AutoNormal(model)
        svi = engine(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(7):
            svi.step()
            seen.append(holder.z.clone())
        results.append(seen)
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


def count(holder):
    holder.n += 1


class Recording(poutine.messenger.Messenger):
    def _pyro_post_sample(self, msg):
        HOLDER.log[msg["name"]] = msg["value"]


class Counted(dist.Normal):
    calls = []  # noqa: RUF012

    def log_prob(self, value):
        self.calls.append(1)
        return super().log_prob(value)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 1), {}
        self.layer.register_forward_hook(
            lambda module, args, result: self.seen.update(h=result)
        )

    def forward(self):
        pyro.module("layer", self.layer)
        with pyro.plate("data", 20):
            loc = self.layer(X).squeeze(-1)
            pyro.sample("y", dist.Normal(loc, 0.5), obs=Y)


def counting():
    count(HOLDER)
    use(get_weight())


def recording():
    with Recording():
        use(get_weight())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: counting, "n of Holder"),
        (lambda: recording, "log of Holder"),
        (lambda: lambda: use(get_weight(), kind=Counted), "calls of Counted"),
        (Network, "seen of Network"),
    ],
    ids=["helper", "handler", "distribution", "hook"],
)
def test_what_is_counted_elsewhere_is_refused(make, name):
    HOLDER.n, HOLDER.log = 0, {}
    Counted.calls.clear()
    svi = CompiledSVI(make(), lambda: None, Adam({"lr": 0.05}))
    with pytest.raises(DynamicPairError, match=f"changes .*{name}.* in every"):
        svi.step()
    assert HOLDER.n == 0 and not HOLDER.log and not Counted.calls


@pytest.mark.parametrize("start", [2, 20], ids=["seen", "unseen"])
def test_hooks_that_wait_for_a_gradient(start):
    """They run at each step, on its gradient, and may change it."""
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        HOLDER.level, norms = 1.0, []
        svi = engine(
            lambda: use(get_weight()),
            lambda: None,
            SGD({"lr": 1e-3}),
            Trace_ELBO(),
        )
        losses = [svi.step()]

        def shrink(param, norms=norms):
            norms.append(param.grad.norm())
            param.grad.mul_(HOLDER.level)

        pyro.param("w").register_post_accumulate_grad_hook(shrink)
        for step in range(8):
            HOLDER.level = 0.5 if step > start else 1.0
            losses.append(svi.step())
        results.append([*losses, *norms])
    assert len(results[1]) == len(results[0]) == 17
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


def test_a_hook_may_keep_what_it_is_given():
    """The next step may write where a graph has left its results."""
    param, kept = torch.ones(2, requires_grad=True), []
    param.register_hook(kept.append)
    result = torch.tensor([1.0, 2.0])
    assert torch.equal(call_hooks(param, result), result)
    result.zero_()
    assert kept[0].tolist() == [1.0, 2.0]


def test_attributes_that_are_one_tensor_stay_one():
    """And they stay as they are where a loss is not finite."""

    def model(holder, x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        holder.z = holder.held = z.detach()
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    holder = Holder()
    svi = CompiledSVI(
        partial(model, holder), lambda x: drawing(), Adam({"lr": 0.05})
    )
    for _ in range(6):
        svi.step(torch.tensor(1.0))
        before = holder.z
        assert holder.held is before
        with pytest.raises(NonFiniteLossError):
            svi.step(torch.tensor(torch.inf))
        assert holder.z is holder.held is before


def drawing():
    loc = pyro.param("loc", torch.tensor(0.5))
    pyro.sample("z", dist.Normal(loc, 1.0))


SCHEDULE = {6: 0.1, 9: 0.3}


@pytest.mark.parametrize(
    "find",
    [
        lambda n: SCHEDULE.get(n, 1.0),
        lambda n: 0.1 if n in {6, 9} else 1.0,
        lambda n: defaultdict(lambda: 1.0, SCHEDULE)[n],
    ],
)
def test_a_number_that_is_a_key(find):
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(
            lambda n: use(get_weight() * find(n)),
            lambda n: None,
            Adam({"lr": 0.05}),
            Trace_ELBO(),
        )
        results.append([svi.step(n) for n in range(11)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float32, torch.complex128],
    ids=str,
)
def test_the_loss_of_parameters_of_several_dtypes(dtype):
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()

        def model():
            first = pyro.param("first", torch.zeros((), dtype=dtype))
            first = first.real if dtype.is_complex else first
            use(get_weight() + first)

        svi = engine(model, lambda: None, SGD({"lr": 1e-9}), Trace_ELBO())
        results.append([svi.step() for _ in range(3)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


def test_moments_that_are_put_in_the_others_place():
    for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        results = []
        for engine in (SVI, CompiledSVI):
            pyro.clear_param_store()
            optim = Adam({"lr": 0.05, "amsgrad": True})
            svi = engine(
                lambda: use(get_weight()), lambda: None, optim, Trace_ELBO()
            )
            losses = [svi.step() for _ in range(5)]
            for each in optim.optim_objs.values():
                for state in each.state.values():
                    state[name] = state[name] * 4
            results.append([*losses, *(svi.step() for _ in range(3))])
        torch.testing.assert_close(*results, rtol=1e-9, atol=0)


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_a_step_without_gradients_is_refused(block):
    svis = [
        CompiledSVI(lambda: use(get_weight()), lambda: None, Adam({})),
        SVI(
            lambda: use(get_weight()),
            lambda: None,
            Adam({}),
            CompiledTrace_ELBO(),
        ),
    ]
    for svi in svis:
        with block(), pytest.raises(ValueError, match="there are no gradients"):
            svi.step()


def test_sparse_gradients():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        table = nn.Embedding(20, 1, sparse=True)

        def model(table=table):
            pyro.module("table", table)
            with pyro.plate("data", 20):
                loc = table(torch.arange(20)).squeeze(-1)
                pyro.sample("y", dist.Normal(loc, 0.5), obs=Y)

        svi = engine(model, lambda: None, SparseAdam({"lr": 0.1}), Trace_ELBO())
        results.append([svi.step() for _ in range(6)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "argument",
    [
        X.shape,
        {1, 2},
        frozenset("ab"),
        deque([X]),
        defaultdict(list, {"x": X, "n": 1}),
        Fraction(1, 3),
        ...,
    ],
    ids=lambda value: type(value).__name__,
)
def test_more_kinds_of_arguments(argument):
    seen = []

    def model(given):
        seen.append(copy.copy(given)) if not seen else None
        scale = 0.5
        if isinstance(given, defaultdict):
            scale = given["n"] / given["x"].shape[0]
        elif given == X.shape:
            scale = 1 / given[0]
        use(get_weight(), scale)

    def no_guide(given):
        pass

    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        seen[:] = [0]
        svi = engine(model, no_guide, Adam({"lr": 0.05}), Trace_ELBO())
        results.append([svi.step(argument) for _ in range(4)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


@pytest.mark.parametrize("is_late", [False, True], ids=["first", "later"])
def test_hooks_on_gradients_in_parts_are_refused(is_late):
    """Pyro would call them twice in a step, with a part each."""
    net = nn.Linear(3, 1)

    def model():
        pyro.module("net", net)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 20):
            pyro.sample("y", dist.Normal(net(X).squeeze(-1) + z, 0.5), obs=Y)

    loss = Trace_ELBO(num_particles=2)
    guide = AutoNormal(model)
    svi = CompiledSVI(model, guide, Adam({"lr": 0.05}), loss)
    for _ in range(3 * is_late):
        svi.step()
    before = dict(pyro.get_param_store())
    net.weight.register_hook(lambda grad: grad.clamp(-0.1, 0.1))
    with pytest.raises(DynamicPairError, match="several times in a step"):
        svi.step()
    assert dict(pyro.get_param_store()) == before


def test_hidden_parameters_get_no_gradient():
    hidden = poutine.block(model, hide_types=["param"])

    def with_mean():
        pyro.param("mean", torch.tensor(0.5))
        model()

    svi = CompiledSVI(
        poutine.block(with_mean, hide_types=["param"]),
        AutoNormal(hidden),
        Adam({"lr": 0.05}),
    )
    for _ in range(9):
        svi.step()
        svi.evaluate_loss()
        assert pyro.param("mean").grad is None


def test_a_penalty_that_is_refused_moves_nothing():
    norm = nn.BatchNorm1d(3)

    def model():
        pyro.module("norm", norm)
        with pyro.plate("data", 20):
            pyro.sample("y", dist.Normal(norm(X).sum(1), 0.5), obs=Y)

    svi = CompiledSVI(model, lambda: None, Adam({"lr": 0.05}), clip_norm=1.0)
    for _ in range(2):
        norm.weight.grad = torch.ones(3)
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match="a gradient of their own"):
            svi.step()
        assert not norm.num_batches_tracked and not norm.running_mean.any()
        assert torch.equal(torch.get_rng_state(), state)
        assert not list(pyro.get_param_store())


def test_a_first_loss_that_is_not_finite_leaves_nothing():
    norm = nn.BatchNorm1d(3)

    def model(x):
        pyro.module("norm", norm)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 20):
            pyro.sample("y", dist.Normal(norm(x).sum(1) + z, 0.5), obs=Y / 0)

    svi = CompiledSVI(model, AutoNormal(model), Adam({"lr": 0.05}))
    state = torch.get_rng_state()
    with pytest.raises(NonFiniteLossError):
        svi.step(X)
    assert not norm.num_batches_tracked and not list(pyro.get_param_store())
    assert torch.equal(torch.get_rng_state(), state)


@dataclass
class Batch:
    x: torch.Tensor

    def scaled(self):
        return self.x * HOLDER.level


def test_a_method_of_an_argument():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        set_level(1.0)

        def model(batch):
            w = get_weight()
            with pyro.plate("data", 20):
                pyro.sample("y", dist.Normal(batch.scaled() @ w, 0.5), obs=Y)

        svi = engine(
            model, lambda batch: None, Adam({"lr": 0.05}), Trace_ELBO()
        )
        losses = [svi.step(Batch(X)) for _ in range(5)]
        set_level(2.0)
        results.append([*losses, svi.step(Batch(X)), svi.step(Batch(X))])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "held",
    [
        np.frombuffer(b"1234567887654321"),
        np.broadcast_to(np.ones(1), 5),
        torch.full((1,), torch.nan).expand(5),
        bytearray(b"ab"),
        list(range(100_000)),
    ],
    ids=["buffer", "broadcast", "expanded", "bytes", "long"],
)
def test_state_of_odd_kinds_is_kept(held):
    HOLDER.held = held

    def model():
        assert len(HOLDER.held) > 1
        use(get_weight())

    svi = CompiledSVI(model, lambda: None, Adam({"lr": 0.05}))
    losses = [svi.step() for _ in range(4)]
    assert losses == sorted(losses, reverse=True)


def test_minus_zero_is_another_number():
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(
            lambda n: use(get_weight(), 0.5 + 0.1 * (math.copysign(1, n) < 0)),
            lambda n: None,
            Adam({"lr": 0.05}),
            Trace_ELBO(),
        )
        results.append([svi.step(n) for n in [0.0] * 5 + [-0.0] * 2])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


class Link:
    def __init__(self, next_link):
        self.next_link, self.level = next_link, 1.0


def test_a_long_chain_of_objects():
    chain = None
    for _ in range(3000):
        chain = Link(chain)
    svi = CompiledSVI(
        lambda: use(2 * get_weight(), chain.level),
        lambda: None,
        Adam({"lr": 0.05}),
    )
    assert svi.step() > svi.step()


class Options:
    scale = 0.5

    @property
    def unused(self):
        return 1

    @staticmethod
    def double(x):
        return 2 * x


def test_a_class_that_is_an_argument_and_a_key():
    known = {Options: 0.5}
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(
            lambda kind: use(get_weight(), kind.double(kind.scale)),
            lambda kind: None,
            Adam({"lr": 0.05}),
            Trace_ELBO(),
        )
        results.append([svi.step(Options) for _ in range(3)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)
    svi = CompiledSVI(
        lambda kind: use(2 * get_weight(), known.get(kind, 1.0)),
        lambda kind: None,
        Adam({"lr": 0.05}),
    )
    assert svi.step(Fraction) > svi.step(Fraction)


def test_an_assertion_over_several_lines():
    def model(x):
        assert (
            (x > -100) & (x < 100)  # each of them
        ).all(), "expected numbers between -100 and 100"
        use(get_weight())

    svi = CompiledSVI(model, lambda x: None, Adam({"lr": 0.05}))
    for _ in range(5):
        svi.step(X)
    with pytest.raises(AssertionError, match="between -100 and 100"):
        svi.step(100 + X.abs())


@pytest.mark.filterwarnings("ignore:16 graphs have been compiled")
def test_evaluations_of_many_values_are_refused():
    def model(n):
        use(get_weight() * torch.ones(int(n)).sum())

    svi = CompiledSVI(model, lambda n: None, Adam({"lr": 0.05}))
    svi.step(torch.tensor(1))
    with pytest.raises(DynamicPairError, match=r"it was .* when the step"):
        for n in range(1, 40):
            svi.evaluate_loss(torch.tensor(n))
    assert svi.num_compilations < 20


def test_methods_of_one_object_have_one_graph():
    class Own:
        def model(self):
            use(get_weight())

        def guide(self):
            pass

    own, loss = Own(), CompiledTrace_ELBO()
    for _ in range(4):
        loss.loss_and_grads(own.model, own.guide)
    assert loss.num_compilations == 1
