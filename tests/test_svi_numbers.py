"""Python's numbers that change from step to step, against pyro.infer.SVI."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

from pyro_vae.svi import CompiledSVI
from tests.models import keep_the_record

Y = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


class Annealed:
    """A model whose prior weighs `beta` of its weight, an attribute."""

    beta = 1.0

    def __call__(self, y, weight=1.0, count=1):
        level = self.level(weight * self.beta, count)
        with pyro.plate("points", len(y)):
            pyro.sample("y", dist.Normal(level, 0.5), obs=y)

    def level(self, weight, count):
        with poutine.scale(scale=weight):
            return pyro.sample("level", dist.Normal(0.0, 2.0))


class Branching(Annealed):
    def level(self, weight, count):
        return super().level(weight, count) * (1.0 if weight < 0.5 else 2.0)


class Exact(Annealed):
    """Python's own mathematics on the number."""

    def level(self, weight, count):
        return super().level(math.exp(-weight), count)


class Copied(Annealed):
    """A constructor that reads numbers without anybody seeing it."""

    def level(self, weight, count):
        return super().level(torch.DoubleTensor([weight, 1.0])[0], count)


class Listed(Annealed):
    def level(self, weight, count):
        pair = torch.tensor([[weight, 1.0], [1.0, 2.0]])
        return super().level(pair[0, 0] * pair[1, 0], count)


class Sized(Annealed):
    def level(self, weight, count):
        names = {1: "one", 2: "two", 3: "three", 4: "four"}
        extra = pyro.param(names[count], torch.ones(count))
        return super().level(weight, count) * extra.mean()


def run(kind, steps, engine):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model = kind()
    svi = engine(model, AutoNormal(model), Adam({"lr": 0.02}), Trace_ELBO())
    losses = []
    for beta, *args in steps:
        model.beta = beta
        losses.append(svi.step(Y, *args))
    return losses, svi


def check(kind, steps):
    """Returns the number of graphs that the same losses took."""
    losses, svi = run(kind, steps, CompiledSVI)
    assert losses == pytest.approx(run(kind, steps, SVI)[0], rel=1e-9)
    return svi.num_compilations


RAMP = [0.1 * step for step in range(1, 10)]


def test_an_attribute_that_is_annealed_takes_two_graphs():
    assert check(Annealed, [(1.0,), (1.0,), *((b,) for b in RAMP)]) == 2


def test_an_argument_that_is_annealed_takes_two_graphs():
    steps = [(1.0, 1.0), (1.0, 1.0), *((1.0, weight) for weight in RAMP)]
    assert check(Annealed, steps) == 2


def test_both_at_once():
    steps = [(b, w) for b, w in zip(RAMP, reversed(RAMP), strict=True)]
    assert check(Annealed, steps) == 1


def test_a_branch_on_the_number_takes_a_graph_for_each_side():
    assert check(Branching, [(1.0, weight) for weight in RAMP]) == 2


def test_pythons_mathematics_takes_a_graph_for_each_value():
    assert check(Exact, [(1.0, weight) for weight in RAMP]) == len(RAMP) - 1


def test_a_number_in_a_list_of_a_tensor_is_an_input():
    assert check(Listed, [(1.0, weight) for weight in RAMP]) == 1


@pytest.mark.parametrize("weights", [RAMP, [*RAMP[:1] * 3, *RAMP]])
def test_a_number_that_a_graph_has_frozen_is_found_when_it_changes(weights):
    check(Copied, [(1.0, weight) for weight in weights])


def test_a_count_that_python_needs_stays_a_number():
    steps = [(1.0, 1.0, count) for count in (1, 1, 2, 2, 3, 3, 1, 2)]
    check(Sized, steps)


def test_a_number_that_stays_is_no_input():
    svi = run(Annealed, [(0.5,)] * 4, CompiledSVI)[1]
    svi.evaluate_loss(Y)
    assert svi.num_compilations == 2
