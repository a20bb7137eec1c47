"""What Pyro refuses in a step, a compiled one refuses in the same words."""

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch.nn import functional as F

from pyro_vae.svi import CompiledSVI, NonFiniteLossError
from tests.models import keep_the_record

X = torch.rand(5, generator=torch.Generator().manual_seed(5)).double()


@pytest.fixture(params=["recorded", "compiled"], autouse=True)
def backend(request, monkeypatch):
    if request.param == "recorded":
        keep_the_record(monkeypatch)
    pyro.enable_validation(True)  # torch.compile switches it off for all


def no_guide(*args):
    pass


def normal(x):
    loc = pyro.param("loc", lambda: torch.tensor(0.5).double())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def waits(x):
    rate = pyro.param("rate", lambda: torch.tensor(0.5).double())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Exponential(rate), obs=x)


def scale_of_argument(x):
    loc = pyro.param("loc", lambda: torch.tensor(0.5).double())
    pyro.sample("z", dist.Gamma(1 + x[0], 1.0), obs=loc.exp())


def falling(x):
    """Its concentration becomes negative, where its density is finite."""
    power = pyro.param("power", lambda: torch.tensor(0.03).double())
    pyro.sample("z", dist.Gamma(power, 1.0), obs=x.sum())
    pyro.factor("down", -1000 * power)


def asserting(x):
    assert not (x < 0).any(), "expected no negative number"
    normal(x)


def one_hot(x):
    weights = pyro.param("weights", lambda: torch.zeros(3).double())
    rows = F.one_hot((3 * x.abs()).long(), 3).double()
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(rows @ weights, 1.0), obs=x)


def drawing(x):
    pyro.sample("z", dist.Exponential(1.0))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.sum())


def drawing_guide(x):
    """Its draws are out of the support of the prior."""
    loc = pyro.param("loc", lambda: torch.tensor(20.0).double())
    pyro.sample("z", dist.Normal(loc - 40 * (x[0] < 0), 1.0))


NEGATIVE = X.clone()
NEGATIVE[0] = -1
TWOS = 2 * torch.ones(5).double()
CASES = {
    "an observation out of its support": (waits, no_guide, NEGATIVE),
    "a parameter out of its range": (
        scale_of_argument,
        no_guide,
        -0.75 * TWOS,
    ),
    "an assertion": (asserting, no_guide, NEGATIVE),
    "a class that is none": (one_hot, no_guide, TWOS),
    "a draw out of the support": (drawing, drawing_guide, NEGATIVE),
}


@pytest.mark.parametrize(("model", "guide", "wrong"), CASES.values(), ids=CASES)
def test_an_error_comes_as_in_pyro_and_leaves_nothing(model, guide, wrong):
    """Also in a step that is not compared with an eager one: the sixth."""
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
        torch.manual_seed(0)
        losses = [svi.step(X) for _ in range(5)]
        state = torch.get_rng_state()
        with pytest.raises(
            (ValueError, AssertionError, RuntimeError)
        ) as raised:
            svi.step(wrong)
        torch.set_rng_state(state)
        with pytest.raises(raised.type) as again:
            svi.evaluate_loss(wrong)
        assert tidy(str(again.value)) == tidy(str(raised.value))
        if engine is CompiledSVI:
            assert torch.equal(torch.get_rng_state(), state)
        torch.set_rng_state(state)
        losses += [svi.step(X) for _ in range(2)]
        results.append((str(raised.value), losses))
    first, second = results
    assert tidy(first[0]) == tidy(second[0])
    torch.testing.assert_close(first[1], second[1], rtol=1e-9, atol=0)


def tidy(message):
    """Returns a message without the place of a tensor in memory."""
    return re.sub(r"0x\w+", "", message)


def test_a_parameter_that_leaves_its_range_is_refused_at_the_same_step():
    """The loss is finite there, so that nothing else would tell."""
    steps = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = engine(falling, no_guide, Adam({"lr": 0.007}), Trace_ELBO())
        for step in range(20):
            try:
                svi.step(X)
            except ValueError as error:
                assert "parameter concentration" in str(error)
                steps.append(step)
                break
    assert steps[0] == steps[1] > 2


def test_a_loss_that_is_not_finite_is_its_own_error():
    """It names the site, also where Pyro finds it while it validates."""
    svi = CompiledSVI(normal, no_guide, Adam({"lr": 0.01}))
    svi.step(X)
    for value in (torch.nan, torch.inf):
        for _ in range(3):
            state = torch.get_rng_state()
            message = "at site 'x' of the model"
            with pytest.raises(NonFiniteLossError, match=message):
                svi.step(X * value)
            assert torch.equal(torch.get_rng_state(), state)
            svi.step(X)


def test_nothing_is_validated_where_that_is_off():
    losses = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        with pyro.validation_enabled(False):
            svi = engine(waits, no_guide, Adam({"lr": 0.01}), Trace_ELBO())
            svi.step(X)
            losses.append(svi.step(NEGATIVE))
    np.testing.assert_allclose(*losses)


def test_an_error_leaves_no_tensor_in_an_attribute():
    """Also in steps that an eager run is compared with: the third of these."""

    class Keeping:
        z = torch.zeros(())

        def model(self, x):
            waits(x)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            self.z = z.detach()

        def guide(self, x):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    pair = Keeping()
    svi = CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.01}))
    for _ in range(6):
        svi.step(X)
        before = pair.z
        with pytest.raises(ValueError, match="to be within the support"):
            svi.step(NEGATIVE)
        assert pair.z is before
