"""What changes behind a compiled step's back: seen, or refused, never missed.

The recorded graph runs without Inductor here, which changes no number that
these tests look at.
"""

import copy
import dataclasses
import enum
import math
import os
import random
from collections import UserDict

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
)
from pyro.optim import Adam
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pyro_vae.svi import (
    CompiledSVI,
    DynamicPairError,
    NonFiniteLossError,
    load_optimizer_state,
    optimizer_state,
)
from tests.models import keep_the_record

X = torch.rand(12, 8, generator=torch.Generator().manual_seed(5)).double()
BETA = 1.0


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


class Pair(nn.Module):
    """A small VAE, with what people keep beside the parameters."""

    def __init__(self, encoder=None):
        super().__init__()
        self.encoder = nn.Linear(8, 4) if encoder is None else encoder
        self.decoder = nn.Linear(2, 8)
        self.beta, self.calls, self.seen = 1.0, 0, []
        self.average, self.last_z = torch.zeros(8), None

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            with pyro.poutine.scale(scale=self.weight()):
                z = pyro.sample("z", prior)
            p = dist.Normal(self.decoder(z), self.noise()).to_event(1)
            pyro.sample("x", p, obs=self.center(x))
        self.note(z)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).chunk(2, -1)
            q = dist.Normal(loc, F.softplus(raw)).to_event(1)
            with pyro.poutine.scale(scale=self.weight()):
                pyro.sample("z", q)

    def weight(self):
        return 1.0

    def noise(self):
        return 0.5

    def center(self, x):
        return x

    def note(self, z):
        pass


def run(engine, make, drive, loss=Trace_ELBO):
    """Returns what one engine makes of a pair: numbers and weights."""
    with pyro.get_param_store().scope():
        torch.manual_seed(0)
        pair = make()
        optim = Adam({"lr": 1e-2})
        svi = engine(pair.model, pair.guide, optim, loss())
        torch.manual_seed(1)
        numbers = drive(svi, pair)
        weights = [p.detach().flatten() for p in pair.parameters()]
    return torch.tensor(numbers), torch.cat(weights)


def assert_same(make, drive, loss=Trace_ELBO):
    ends = [run(engine, make, drive, loss) for engine in (SVI, CompiledSVI)]
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-8, atol=1e-10)


def steps(svi, count, *args):
    return [svi.step(*(args or (X,))) for _ in range(count)]


class OfAttribute(Pair):
    def weight(self):
        return self.beta


class OfGlobal(Pair):
    def weight(self):
        return BETA


class Settings:
    beta = 1.0


class OfObject(Pair):
    settings = Settings()

    def weight(self):
        return self.settings.beta


class OfDictionary(Pair):
    options = {"beta": [1.0]}  # noqa: RUF012

    def weight(self):
        return self.options["beta"][0]


def set_attribute(pair, beta):
    pair.beta = beta


def set_global(pair, beta):
    globals()["BETA"] = beta


def set_object(pair, beta):
    pair.settings.beta = beta


def set_dictionary(pair, beta):
    pair.options["beta"][0] = beta


@pytest.mark.parametrize(
    ("kind", "set_beta"),
    [
        (OfAttribute, set_attribute),
        (OfGlobal, set_global),
        (OfObject, set_object),
        (OfDictionary, set_dictionary),
    ],
)
def test_a_number_that_code_reads_may_change(kind, set_beta):
    def drive(svi, pair):
        set_beta(pair, 1.0)
        losses = steps(svi, 3)
        set_beta(pair, 0.1)
        return losses + steps(svi, 2)

    assert_same(kind, drive)


def test_a_closures_number_and_data_may_change():
    def drive_closure(engine):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            data, beta = X.clone(), 1.0

            def model():
                loc = pyro.param("loc", torch.zeros(8))
                with pyro.poutine.scale(scale=beta):
                    pyro.sample(
                        "x", dist.Normal(loc, 1.0).to_event(1), obs=data.mean(0)
                    )

            svi = engine(model, lambda: None, Adam({"lr": 0.1}), Trace_ELBO())
            losses = [svi.step() for _ in range(3)]
            data = data + 1
            losses += [svi.step() for _ in range(2)]
            is_one = getattr(svi, "num_compilations", 1) == 1
            beta = 0.5
            return [*losses, svi.step(), svi.step(), is_one]

    eager, compiled = map(drive_closure, (SVI, CompiledSVI))
    assert compiled == pytest.approx(eager, rel=1e-9)


class Averaging(Pair):
    def center(self, x):
        self.average.mul_(0.9).add_(0.1 * x.mean(0).detach())
        return x - self.average


class Replacing(Pair):
    def center(self, x):
        self.average = 0.9 * self.average + 0.1 * x.mean(0)
        return x - self.average


class Noting(Pair):
    def note(self, z):
        self.last_z = z


@pytest.mark.parametrize("kind", [Averaging, Replacing, Noting])
def test_tensors_that_the_pair_keeps_are_kept(kind):
    def drive(svi, pair):
        numbers = steps(svi, 6)
        assert pair.last_z is None or pair.last_z.shape == (12, 2)
        kept = pair.average if pair.last_z is None else pair.last_z
        return [*numbers, *kept.flatten().tolist()]

    assert_same(kind, drive)


class Counting(Pair):
    def noise(self):
        self.calls += 1
        return 0.5 if self.calls < 100 else 5.0


class Listing(Pair):
    def note(self, z):
        self.seen.append(z.detach())


class OfChance(Pair):
    def noise(self):
        return 0.5 + random.random()


class OfNumpysChance(Pair):
    def noise(self):
        return 0.5 + np.random.rand()


class Seeding(Pair):
    def guide(self, x):
        pyro.set_rng_seed(3)
        return super().guide(x)


class OfGenerator(Pair):
    generator = torch.Generator()

    def noise(self):
        return 0.5 + torch.rand((), generator=self.generator)


class Masking(Pair):
    def center(self, x):
        assert x[torch.rand_like(x) > 0.5].shape[0] > 0
        return x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Counting, "changes calls of Counting in every run"),
        (Listing, "changes seen of Listing in every run"),
        (OfChance, "changes the state of Python's random module"),
        (OfNumpysChance, "changes the state of NumPy's random module"),
        (Seeding, "sets the state of torch's random generator, by a seed"),
        # torch 2.8 cannot record it, and says so itself.
        (OfGenerator, r"a torch.Generator of its own|C\.Generator"),
        (Masking, r"by x\[mask\], in center\(\) at line \d+, so"),
    ],
)
def test_what_a_graph_cannot_repeat_is_refused_and_leaves_nothing(
    kind, message
):
    """Going on with Pyro's SVI is as if nothing had been tried."""

    def refuse(svi, pair):
        if isinstance(svi, CompiledSVI):
            with pytest.raises(DynamicPairError, match=message):
                svi.step(X)
            svi = SVI(pair.model, pair.guide, svi.optim, Trace_ELBO())
        return steps(svi, 3)

    def prepare(svi, pair):
        random.seed(3)
        np.random.seed(3)
        OfGenerator.generator.manual_seed(3)
        return refuse(svi, pair)

    assert_same(kind, prepare)


def test_state_out_of_sight_is_found_when_steps_are_compared(monkeypatch):
    class OfEnvironment(Pair):
        def noise(self):
            return float(os.environ["PYRO_VAE_NOISE"])

    pair = OfEnvironment()
    monkeypatch.setenv("PYRO_VAE_NOISE", "0.5")
    svis = [
        CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}), compare=compare)
        for compare in (True, False)
    ]
    for svi in svis:
        svi.step(X)
    before = copy.deepcopy(pair.state_dict())
    monkeypatch.setenv("PYRO_VAE_NOISE", "0.9")
    with pytest.raises(DynamicPairError, match="something that has changed"):
        svis[0].step(X)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())
    svis[1].step(X)


def test_a_gradient_that_is_missing_is_found_when_steps_are_compared(
    monkeypatch,
):
    class OfEnvironment(Pair):
        def center(self, x):
            if os.environ["PYRO_VAE_FREEZE"]:
                self.decoder.requires_grad_(False)
            return x

    pair = OfEnvironment()
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}))
    monkeypatch.setenv("PYRO_VAE_FREEZE", "")
    svi.step(X)
    monkeypatch.setenv("PYRO_VAE_FREEZE", "1")
    with pytest.raises(DynamicPairError, match="something that has changed"):
        svi.step(X)


def test_a_jit_estimators_options_may_change():
    def drive(svi, pair):
        losses = steps(svi, 2)
        svi.loss.__self__.num_particles = 3
        return losses + steps(svi, 2)

    def run_with(loss):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            pair = Pair()
            args = (pair.model, pair.guide, Adam({"lr": 1e-2}), loss)
            svi = CompiledSVI(*args)
            torch.manual_seed(1)
            return drive(svi, pair)

    assert run_with(JitTrace_ELBO()) == run_with(Trace_ELBO())


def test_optimizer_loss_and_weights_may_be_replaced():
    def drive(svi, pair):
        losses = steps(svi, 3)
        weights = copy.deepcopy(pair.state_dict())
        named = list(pair.named_parameters())
        state = optimizer_state(svi.optim, named)
        state = {key: value.clone() for key, value in state.items()}
        losses += steps(svi, 4)
        pair.load_state_dict(weights)
        load_optimizer_state(svi.optim, named, state)
        losses += steps(svi, 3)
        svi.optim = Adam({"lr": 0.05})
        losses += steps(svi, 3)
        svi.loss.__self__.num_particles = 3
        return losses + steps(svi, 2)

    assert_same(Pair, drive)


def test_two_steps_may_share_an_optimizer():
    def drive(svi, pair):
        engine = type(svi)
        other = engine(pair.model, pair.guide, svi.optim, TraceGraph_ELBO())
        losses = []
        for _ in range(4):
            losses += [svi.step(X), other.step(X)]
        return losses

    assert_same(Pair, drive)


def test_gradients_of_the_users_own_are_part_of_the_step():
    def drive(svi, pair):
        losses = []
        for step in range(6):
            (5 * pair.encoder.weight.square().sum()).backward()
            losses.append(svi.step(X))
            if step == 3:
                pair.decoder.weight.register_hook(lambda grad: 0.1 * grad)
        return losses

    assert_same(Pair, drive)


def test_hooks_on_gradients_are_pythons():
    """Each sees each step's gradient once, and may change it or not."""

    def drive(svi, pair):
        seen = []
        weight = pair.decoder.weight
        weight.register_hook(lambda grad: seen.append(grad.norm().item()))
        weight.register_hook(lambda grad: grad.clamp(-1.0, 1.0))
        losses = steps(svi, 5)
        bias = pair.encoder.bias.register_hook(lambda grad: 0 * grad)
        losses += steps(svi, 2)
        bias.remove()
        return [*losses, *steps(svi, 2), *seen, len(seen)]

    assert_same(Pair, drive)


def test_hooks_that_would_see_parts_of_a_gradient_are_refused():
    pair = Pair()
    pair.decoder.weight.register_hook(lambda grad: grad.clamp(-1.0, 1.0))
    loss = Trace_ELBO(num_particles=2)
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}), loss)
    with pytest.raises(DynamicPairError, match="vectorize_particles=True"):
        svi.step(X)
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}), clip_norm=1.0)
    with pytest.raises(ValueError, match="clip in the hook"):
        svi.step(X)


def test_no_penalty_is_clipped_in_silence():
    pair = Pair()
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}), clip_norm=1.0)
    pair.encoder.weight.square().sum().backward()
    with pytest.raises(ValueError, match="clip_norm is given; expected one"):
        svi.step(X)
    assert pair.encoder.weight.grad is not None


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_checkpointed_dropout_draws_once(is_reentrant):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(8, 6), nn.Dropout(0.5), nn.Linear(6, 4)
            )

        def forward(self, x):
            x = x.clone().requires_grad_()  # as reentrant checkpoints want it
            return checkpoint(self.net, x, use_reentrant=is_reentrant)

    assert_same(lambda: Pair(Encoder()), lambda svi, pair: steps(svi, 5))


def test_a_dropouts_rate_and_a_modules_mode_may_change():
    def drive(svi, pair):
        losses = steps(svi, 3)
        pair.encoder[1].p = 0.1
        losses += steps(svi, 2)
        pair.eval()
        losses += [*steps(svi, 2), svi.evaluate_loss(X)]
        return losses + pair.encoder[2].running_mean.tolist()

    def make():
        return Pair(
            nn.Sequential(
                nn.Linear(8, 6),
                nn.Dropout(0.5),
                nn.BatchNorm1d(6),
                nn.Linear(6, 4),
            )
        )

    assert_same(make, drive)


def test_a_refused_batch_leaves_running_statistics_alone():
    pair = Pair(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)))
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}))
    steps(svi, 2)
    before = copy.deepcopy(pair.state_dict())
    with pytest.raises(NonFiniteLossError, match="the loss is nan"):
        svi.step(torch.full_like(X, math.nan))
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())


def test_a_loss_that_is_a_buffer_is_judged_before_the_buffer_is_restored():
    pair = Pair()
    pair.register_buffer("last", torch.tensor(0.0))

    def compute(model, guide, x):
        loss = Trace_ELBO().differentiable_loss(model, guide, x)
        loss.backward()
        pair.last.copy_(loss.detach())
        return pair.last

    optim = Adam({"lr": 0.01})
    svi = CompiledSVI(pair.model, pair.guide, optim, compute, compute)
    losses = steps(svi, 3)
    before = copy.deepcopy(pair.state_dict())
    assert pair.last == losses[-1]
    with pytest.raises(NonFiniteLossError, match="the loss is nan"):
        svi.step(torch.full_like(X, math.nan))
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())


def test_another_default_device_is_another_graph():
    pair = Pair()
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}))
    steps(svi, 5)
    assert svi.num_compilations == 1
    with torch.device("cpu"):  # as it was, and so is the graph
        steps(svi, 1)
    assert svi.num_compilations == 1
    with pytest.raises(RuntimeError), torch.device("meta"):
        steps(svi, 1)  # what the pair makes has no values there
    assert all(map(math.isfinite, steps(svi, 3)))
    assert svi.num_compilations == 1


def test_an_argument_that_the_model_changes_changes_once_a_step():
    class Shifting(Pair):
        def model(self, x, shift):
            super().model(x - shift.add_(0.1))

        def guide(self, x, shift):
            super().guide(x)

    def drive(svi, pair):
        shift = torch.zeros(8)
        return [*steps(svi, 5, X, shift), *shift.tolist()]

    assert_same(Shifting, drive)


@pytest.mark.filterwarnings("ignore:grad and param do not obey")
def test_weights_may_be_cast_and_laid_out_anew():
    def drive(svi, pair):
        losses = [*steps(svi, 2), svi.evaluate_loss(X)]
        pair.float()
        losses.append(svi.evaluate_loss(X.float()))
        pair.double()
        weight = pair.encoder.weight
        weight.data = weight.data.t().contiguous().t()
        return losses + steps(svi, 3)

    ends = [run(engine, Pair, drive)[0] for engine in (SVI, CompiledSVI)]
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-5)


class Labels(nn.Module):
    """A semi-supervised pair, whose classifier has a gradient in turns."""

    def __init__(self):
        super().__init__()
        self.y, self.z = nn.Linear(8, 3), nn.Linear(11, 4)
        self.x = nn.Linear(5, 8)

    def model(self, x, y=None):
        pyro.module("labels", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(3)), obs=y)
            shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
            z, y = z.expand(*shape, 2), y.expand(*shape, 3)
            p = dist.Normal(self.x(torch.cat([z, y], -1)), 0.5).to_event(1)
            pyro.sample("x", p, obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                q = dist.OneHotCategorical(logits=self.y(x))
                y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            shape = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
            x, y = x.expand(*shape, 8), y.expand(*shape, 3)
            loc, raw = self.z(torch.cat([x, y], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, F.softplus(raw)).to_event(1))


def test_labeled_and_unlabeled_batches_step_in_turn():
    def drive(svi, pair):
        y = torch.eye(3)[torch.arange(12) % 3]
        losses = []
        for step in range(7):
            losses.append(svi.step(X, y) if step % 2 == 0 else svi.step(X))
        return losses

    def make_loss():
        return TraceEnum_ELBO(
            max_plate_nesting=1, strict_enumeration_warning=False
        )

    assert_same(Labels, drive, make_loss)


class Unit(enum.Enum):
    METER = 2.0


@dataclasses.dataclass(frozen=True)
class Batch:
    x: torch.Tensor
    weight: float
    unit: Unit


def test_arguments_of_many_kinds_are_static_or_tensors():
    class OfMany(Pair):
        def model(self, batch, part, rows, gain, shift):
            weight = batch.weight * batch.unit.value * gain
            x = batch.x[part] * weight + torch.as_tensor(shift)
            super().model(x[list(rows)])

        def guide(self, batch, part, rows, gain, shift):
            super().guide(batch.x[part][list(rows)])

    def drive(svi, pair):
        losses = []
        for step in range(6):
            batch = Batch(X + step, 0.5, Unit.METER)
            gain = np.float64(1 + step // 3)
            shift = np.full(8, step // 3)
            args = (batch, slice(1, None), range(0, 6, 2), gain, shift)
            losses.append(svi.step(*args))
        assert getattr(svi, "num_compilations", 2) == 2
        return losses

    assert_same(OfMany, drive)
    pair = Pair()
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}))
    with pytest.raises(ValueError, match=r"is \{0: 0, 1.*\.\.\., a UserDict"):
        svi.step(UserDict(zip(range(1000), range(1000), strict=True)))


def test_distributions_that_were_made_with_validation_are_recorded():
    class Regression(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = pyro.nn.PyroModule[nn.Linear](8, 1)
            prior = dist.Normal(0.0, 1.0, validate_args=True)
            self.linear.weight = pyro.nn.PyroSample(
                prior.expand([1, 8]).to_event(2)
            )

        def forward(self, x):
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, 0.3), obs=x.sum(1))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Regression()
            self.guide = pyro.infer.autoguide.AutoNormal(self.model)

    assert_same(Both, lambda svi, pair: steps(svi, 6))


def test_a_function_may_be_the_loss():
    def compute(model, guide, x):
        return 2 * Trace_ELBO().differentiable_loss(model, guide, x)

    assert_same(Pair, lambda svi, pair: steps(svi, 5), lambda: compute)
