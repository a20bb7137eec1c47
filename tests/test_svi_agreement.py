"""What rounding can do to a step, and what it cannot."""

import pytest
import torch
from torch import nn

from pyro_vae.svi.agreement import (
    DisagreementError,
    check_agreement,
    run_nearby,
)
from pyro_vae.svi.pairs import Run


class Kink(nn.Module):
    """A ReLU of a sum that is next to zero, and a smooth part."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, 3.0]))
        self.scale = 1.0

    def run(self):
        self.weights.grad = None
        x = torch.tensor([3.0, -1.0])
        rounding = torch.finfo(self.weights.dtype).eps
        loss = self.scale * ((self.weights * x).sum() - rounding).relu()
        loss = loss + self.weights.square().sum()
        loss.backward()
        grad = self.weights.grad
        return Run(
            [loss.detach()], [self.weights], [grad], [self.weights], [], None
        )


def across(run, size=1.0):
    """Returns a run whose ReLU is on the other side of zero."""
    grad = run.gradients[0] + size * torch.tensor([3.0, -1.0])
    return Run(run.losses, run.stepped, [grad], run.announced, [], None)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_a_kink_that_rounding_crosses_is_no_disagreement(precision):
    model = Kink()
    truth = model.run()
    assert (truth.gradients[0] == torch.tensor([2.0, 6.0])).all()
    found = across(truth)
    with pytest.raises(DisagreementError, match="an eager one differ"):
        check_agreement([truth], found, precision)
    nearby = [*run_nearby(truth, precision, model.run)]
    assert torch.equal(model.weights.detach(), torch.tensor([1.0, 3.0]))
    check_agreement([truth, *nearby], found, precision)
    with pytest.raises(DisagreementError, match="gradients differ by up to"):
        check_agreement([truth, *nearby], across(truth, 10.0), precision)


def test_what_rounding_does_not_do_is_a_disagreement():
    model = Kink()
    with torch.no_grad():
        model.weights[0] = 2.0  # far from the kink
    truth = model.run()
    nearby = [*run_nearby(truth, "highest", model.run)]
    model.scale = 1.1
    with pytest.raises(DisagreementError, match="something that has changed"):
        check_agreement([truth, *nearby], model.run(), "highest")


def test_parameters_end_as_they_were_when_a_run_fails():
    model = Kink()
    before = model.weights.detach().clone()

    def fail():
        assert not torch.equal(model.weights, before)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        list(run_nearby(model.run(), "highest", fail))
    assert torch.equal(model.weights, before)


def test_random_states_are_left_alone():
    model, state = Kink(), torch.get_rng_state()
    list(run_nearby(model.run(), "highest", model.run))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_not_a_number_is_a_disagreement_and_excuses_none():
    model = Kink()
    truth = model.run()
    lost = across(truth, float("nan"))
    with pytest.raises(DisagreementError):
        check_agreement([truth], lost, "highest")
    with pytest.raises(DisagreementError):  # a nearby run at a domain's edge
        check_agreement(
            [truth, across(truth, float("inf"))], across(truth), "highest"
        )
